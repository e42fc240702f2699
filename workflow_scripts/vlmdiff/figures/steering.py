"""Dose-response of steering: strength against the change of accuracy and margin."""

from __future__ import annotations

from types import MappingProxyType

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.effects import ACCURACY, MARGIN, Measure
from vlmdiff.figures.style import (
    BLACK,
    BLUE,
    DOUBLE_MM,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    legend_above,
    message_figure,
    new_figure,
    styled,
)

ARMS = MappingProxyType(
    {
        "caa": ("CAA at a feature's layer", VERMILION, "o"),
        "caa_middle": ("CAA at the middle layer", ORANGE, "s"),
        "feature": ("feature", BLUE, "^"),
        "caa_feature": ("CAA + feature", GREEN, "D"),
    }
)


def draw_panel(axis: Axes, rows: pd.DataFrame, measure: Measure) -> None:
    """Draw one data set: a thin line an arm's direction, its chosen strength marked, random as a band."""
    random = rows[rows["arm"] == "random"].groupby("strength")[measure.column]
    if random.ngroups:
        low, high = random.quantile(0.025) * measure.factor, random.quantile(0.975) * measure.factor
        axis.fill_between(low.index, low, high, color=GREY, alpha=0.25, lw=0, label="random directions, 95 %")
    for arm, (label, colour, marker) in ARMS.items():
        for _, part in rows[rows["arm"] == arm].groupby("name"):
            line = part.sort_values("strength")
            axis.plot(
                line["strength"], line[measure.column] * measure.factor, color=colour, lw=0.9, label=label
            )
            best = line[line["chosen"]]
            axis.plot(best["strength"], best[measure.column] * measure.factor, marker, color=colour, ms=4.5)
    axis.axhline(0, color=BLACK, lw=0.5)
    axis.axvline(0, color=BLACK, lw=0.5)


@styled
def steering(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw strength against change of accuracy (above) and margin (below), target and control.

    Args:
        table: STEERING.
        target, control: names of the data sets.
    """
    whole = table[table["group"] == "all"]
    if whole.empty:
        return message_figure("No ranked feature: nothing to steer by.")
    figure = new_figure(DOUBLE_MM, 110)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, measure in zip(axes, (ACCURACY, MARGIN)):
        for axis, dataset, name in zip(row, (target, control), ("target", "control")):
            draw_panel(axis, whole[whole["dataset"] == dataset], measure)
            if measure is ACCURACY:
                axis.set_title(f"{name} ({dataset})")
        row[0].set_ylabel(measure.label)
    for axis in axes[1]:
        axis.set_xlabel("Strength (mean residual norms)")
    legend_above(figure, axes.flat, columns=5)
    return figure

"""Dose-response of steering: strength against the change of accuracy and margin."""

from __future__ import annotations

from types import MappingProxyType

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.effects import ACCURACY, MARGIN, RANDOM, Measure, draw_chosen, draw_random
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
    """Draw one data set: a thin line an arm's direction, its chosen strength marked, the best arm ringed."""
    for arm, (label, colour, marker) in ARMS.items():
        for _, part in rows[rows["arm"] == arm].groupby("name"):
            line = part.sort_values("strength")
            axis.plot(
                line["strength"], line[measure.column] * measure.factor, color=colour, lw=0.9, label=label
            )
            best = line[line["chosen"]]
            axis.plot(best["strength"], best[measure.column] * measure.factor, marker, color=colour, ms=4.5)
    winner = rows[rows["winner"] & (rows["arm"] != RANDOM)]
    axis.plot(
        winner["strength"], winner[measure.column] * measure.factor, "o", mfc="none", mec=BLACK, mew=1.0,
        ms=8, zorder=4,
    )  # fmt: skip
    axis.axhline(0, color=BLACK, lw=0.5)
    axis.axvline(0, color=BLACK, lw=0.5)


def draw_winners(axis: Axes, rows: pd.DataFrame, measure: Measure, datasets: tuple[str, str]) -> None:
    """Draw the best arm with its interval, and beside it the best direction of each random pool."""
    for place, dataset in enumerate(datasets):
        winners = rows[rows["winner"] & (rows["dataset"] == dataset)]
        named = winners["arm"] != RANDOM
        draw_chosen(axis, winners[named], place - 0.15, measure, (BLACK, "o", "best arm, 95 %"))
        draw_random(axis, winners[~named], place + 0.15, measure, (GREY, "best of each random pool"))
    axis.axhline(0, color=BLACK, lw=0.5)
    axis.set_xticks(range(len(datasets)), ["target", "control"])
    axis.set_xlim(-0.6, len(datasets) - 0.4)


@styled
def steering(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw strength against change of accuracy (above) and margin (below), target and control.

    On the right the claim: the best arm on validation data beside random pools that chose as it did.

    Args:
        table: STEERING.
        target, control: names of the data sets.
    """
    whole = table[table["group"] == "all"]
    if whole.empty:
        return message_figure("No ranked feature: nothing to steer by.")
    figure = new_figure(DOUBLE_MM, 115)
    axes = figure.subplots(2, 3, sharex="col", width_ratios=(2, 2, 1))
    datasets = (target, control)
    for row, measure in zip(axes, (ACCURACY, MARGIN)):
        row[1].sharey(row[0])
        row[1].tick_params(axis="y", labelleft=False)
        for axis, dataset in zip(row, datasets):
            draw_panel(axis, whole[whole["dataset"] == dataset], measure)
        draw_winners(row[2], whole, measure, datasets)
        row[0].set_ylabel(measure.label)
    for axis, title in zip(axes[0], (f"target ({target})", f"control ({control})", "chosen alike")):
        axis.set_title(title)
    for axis in axes[1, :2]:
        axis.set_xlabel("Strength (mean residual norms)")
    legend_above(figure, axes.flat, columns=3)
    return figure

"""Stages: what data and model each changed, and what the same directions do at other stages."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.effects import ACCURACY, MARGIN, Measure
from vlmdiff.figures.style import (
    BLACK,
    BLUE,
    CONTROL_COLOUR,
    DOUBLE_MM,
    LIGHT,
    ORANGE,
    TARGET_COLOUR,
    legend_above,
    message_figure,
    new_figure,
    styled,
)

# Horizontal and vertical column of each panel, with its title.
PANELS = (
    ("model_at_start", "data_at_start", "First step"),
    ("model_after_data", "data_after_model", "Second step"),
    ("both_data_first", "both_model_first", "Both steps, by either order"),
)
AXES = MappingProxyType(
    {
        "model_at_start": "new model, old data (S to M)",
        "data_at_start": "new data, old model (S to D)",
        "model_after_data": "new model, after new data (D to F)",
        "data_after_model": "new data, after new model (M to F)",
        "both_data_first": "data first (S to D to F)",
        "both_model_first": "model first (S to M to F)",
    }
)


def draw_edges(axis: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Draw one feature a point, final ones on top."""
    layers = (
        (~table["adapted"], LIGHT, 2.0, "other features"),
        (table["adapted"] & ~table["final"], ORANGE, 2.5, "adapted"),
        (table["final"], BLUE, 4.0, "final"),
    )
    for mask, colour, size, label in layers:
        # Thousands of points: as an image inside the vector file.
        axis.scatter(
            table.loc[mask, x], table.loc[mask, y], s=size, c=colour, lw=0, label=label, rasterized=True
        )
    low = float(np.nanpercentile(table[[x, y]].to_numpy(), 0.2)) - 0.02
    axis.plot([low, 1], [low, 1], color=BLACK, lw=0.5, ls=":")
    axis.set(xlabel=AXES[x], ylabel=AXES[y], xlim=(low, 1.005), ylim=(low, 1.005))
    axis.set_aspect("equal")


@styled
def stage_grid(table: pd.DataFrame) -> Figure:
    """Draw rotations along the edges of the stage grid against each other (cosines of decoder rows).

    Args:
        table: STAGE_GRID.
    """
    if table.empty:
        return message_figure("No stage grid was made.")
    figure = new_figure(DOUBLE_MM, 68)
    for axis, (x, y, title) in zip(figure.subplots(1, len(PANELS)), PANELS):
        draw_edges(axis, table, x, y)
        axis.set_title(title)
    legend_above(figure, figure.axes[:1], columns=3)
    return figure


def draw_transfer(axis: Axes, table: pd.DataFrame, measure: Measure, data: tuple[str, str]) -> None:
    """Draw the effect of the whole set, and the range of random ones, model by model."""
    looks = ((TARGET_COLOUR, "o", "target"), (CONTROL_COLOUR, "s", "control"))
    for dataset, (colour, marker, name) in zip(data, looks):
        rows = table[table["dataset"] == dataset]
        chosen = rows[rows["arm"] == "selected"].sort_values("order")
        value = chosen[measure.column].to_numpy() * measure.factor
        low, high = (chosen[column].to_numpy() * measure.factor for column in (measure.low, measure.high))
        axis.errorbar(
            chosen["order"], value, yerr=np.clip([value - low, high - value], 0, None), fmt=f"{marker}-",
            color=colour, ms=3.4, elinewidth=0.9, label=f"same features, {name} ({dataset})", zorder=3,
        )  # fmt: skip
        random = rows[rows["arm"] == "random"].groupby("order")[measure.column]
        if random.ngroups:
            ends = random.min() * measure.factor, random.max() * measure.factor
            axis.fill_between(
                ends[0].index, *ends, color=colour, alpha=0.15, lw=0, label=f"matched random, {name}"
            )
    axis.axhline(0, color=BLACK, lw=0.5)
    axis.set_ylabel(measure.label)


@styled
def transfer(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw what ablating the same directions does in the model at other stages.

    Args:
        table: TRANSFER of a concept.
        target, control: names of the data sets.
    """
    whole = table[table["group"] == "all"]
    if whole.empty:
        return message_figure("No final feature: nothing to transfer.")
    together = whole[whole["size"] == whole["size"].max()]
    names = together.drop_duplicates("order").sort_values("order")
    figure = new_figure(DOUBLE_MM, 72)
    for axis, measure in zip(figure.subplots(1, 2), (ACCURACY, MARGIN)):
        draw_transfer(axis, together, measure, (target, control))
        axis.set_xticks(names["order"], names["model"])
    legend_above(figure, figure.axes[:1], columns=2)
    return figure

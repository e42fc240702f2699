"""The scoreboard: how well methods and contrasts rank and select, and what controls say."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.confidence import ROW_MM, row_labels
from vlmdiff.figures.style import (
    BLACK,
    BLUE,
    DOUBLE_MM,
    GREY,
    ORANGE,
    PURPLE,
    legend_above,
    log_scale,
    message_figure,
    new_figure,
    styled,
)

# Of the rules two are drawn: the contrast alone, and with all filters; `own` is a submission's.
LOOKS = MappingProxyType(
    {
        "contrast": ("contrast alone", ORANGE, "o", -0.16),
        "full": ("with all filters", BLUE, "D", 0.16),
        "own": ("submitted", PURPLE, "s", 0.0),
    }
)
PLACE = ["method", "concept"]


def draw_points(axis: Axes, board: pd.DataFrame, column: str, places: dict[tuple[str, str], int]) -> None:
    """Draw a value of every seed, and a line at the mean of the seeds."""
    for rule, (label, colour, marker, shift) in LOOKS.items():
        rows = board[board["rule"] == rule].dropna(subset=[column])
        if rows.empty:
            continue
        y = np.array([places[key] for key in zip(rows["method"], rows["concept"])]) + shift
        axis.plot(rows[column], y, marker, color=colour, label=label, ms=3.2, clip_on=False, zorder=3)
        means = rows.groupby(PLACE)[column].mean()
        axis.plot(means, [places[key] + shift for key in means.index], "|", color=colour, ms=9, mew=1.2)


def draw_random(axis: Axes, board: pd.DataFrame, places: dict[tuple[str, str], int]) -> None:
    """Draw what matched random features do, and where nothing is."""
    rows = board[board["rule"] == "full"].dropna(subset=["random_margin"])
    y = [places[key] + 0.16 for key in zip(rows["method"], rows["concept"])]
    axis.plot(rows["random_margin"], y, "x", color=GREY, label="matched random features", ms=3.2, mew=0.8)
    axis.axvline(0, color=BLACK, lw=0.5)


@styled
def scoreboard(board: pd.DataFrame) -> Figure:
    """Draw average precision, F1, finds in controls and effects of each method and concept, a point a seed.

    Args:
        board: SCOREBOARD.
    """
    shown = board[board["rule"].isin(LOOKS)]
    if shown.empty:
        return message_figure("No method was scored.")
    names = list(dict.fromkeys(zip(shown["method"], shown["concept"])))
    places = {name: row for row, name in enumerate(names)}
    figure = new_figure(DOUBLE_MM, 30 + ROW_MM * len(names))
    axes = figure.subplots(1, 4)
    columns = ("average_precision_any", "f1_any", "control_finds", "target_margin")
    titles = ("Average precision", "F1", "Finds in a control", "Margin (logits)")
    labels = [method if concept == "own" else f"{method}, {concept}" for method, concept in names]
    for axis, column, title in zip(axes, columns, titles):
        draw_points(axis, shown, column, places)
        row_labels(axis, labels if axis is axes[0] else [""] * len(labels))
        axis.set_xlabel(title)
    for axis in axes[:2]:
        axis.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    log_scale(axes[2], "x", "symlog", linthresh=10)
    axes[2].set_xlim(left=-0.5)
    draw_random(axes[3], shown, places)
    legend_above(figure, axes, columns=4)
    return figure

"""How the selection of adapted features moves with its two thresholds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmdiff.figures.style import DOUBLE_MM, SEQUENTIAL, VERMILION, message_figure, new_figure, styled

PANELS = (
    ("adapted", "Features selected (per cent of them not calibrated)"),
    ("jaccard", "Jaccard index with the framed selection"),
    ("retention", "Retention: share of the framed selection kept"),
    ("precision", "Precision: share that the framed selection holds"),
)
# Above this share of the colour range, cividis is so light that black digits read better.
LIGHT_FROM = 0.45


def cell_text(value: float, apart: float | None) -> str:
    """Write a cell's number as short as it can be.

    Args:
        value: a count or a share.
        apart: of a count, how many are not calibrated; None for a share.
    """
    if np.isnan(value):
        return ""
    if apart is None:
        return f"{value:.2f}".replace("0.", ".", 1)
    return f"{value:.0f}\n({100 * apart / value:.0f})" if value else "0"


def draw_heat_map(axis: Axes, table: pd.DataFrame, apart: pd.DataFrame | None = None) -> None:
    """Draw one value by eps (rows) and percentile (columns), each cell with its number.

    Args:
        axis: where.
        table: counts or shares.
        apart: of counts, how many are not calibrated.
    """
    counts = apart is not None
    values = table.to_numpy(float)
    top = max(float(np.nanmax(values)), 1e-9) if counts and np.isfinite(values).any() else 1.0
    axis.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value / top > LIGHT_FROM else "white"
        axis.text(
            column,
            row,
            cell_text(value, apart.iloc[row, column] if counts else None),
            ha="center",
            va="center",
            color=colour,
        )
    axis.set_xticks(range(table.shape[1]), [f"{value:g}" for value in table.columns])
    axis.set_yticks(range(table.shape[0]), [f"{value:g}" for value in table.index])
    axis.tick_params(length=0)


def mark_config(axis: Axes, table: pd.DataFrame, eps: float, percentile: float) -> None:
    """Outline the cell of the config's percentile rule, if the sweep holds it."""
    if eps in table.index and percentile in table.columns:
        corner = (table.columns.get_loc(percentile) - 0.5, table.index.get_loc(eps) - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=VERMILION, lw=1.8, clip_on=False))


def over_seeds(sweep: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the means of a column over seeds, by eps (rows) and percentile (columns)."""
    return sweep.pivot_table(index="eps", columns="percentile", values=column, aggfunc="mean", dropna=False)


@styled
def threshold_robustness(sweep: pd.DataFrame, eps: float, percentile: float) -> Figure:
    """Draw count, Jaccard index, retention and precision over the sweep of both thresholds.

    Args:
        sweep: THRESHOLD_SWEEP of all seeds; cells are means over seeds.
        eps: the config's energy threshold.
        percentile: the config's percentile.
    """
    if sweep.empty:
        return message_figure("The threshold sweep is empty.")
    figure = new_figure(DOUBLE_MM, 112)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for axis, (column, title) in zip(axes.flat, PANELS):
        table = over_seeds(sweep, column)
        draw_heat_map(axis, table, over_seeds(sweep, "uncalibrated") if column == "adapted" else None)
        mark_config(axis, table, eps, percentile)
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("Percentile of the cosines")
    for axis in axes[:, 0]:
        axis.set_ylabel("Visual energy above")
    return figure

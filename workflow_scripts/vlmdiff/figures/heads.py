"""Which heads write the features: attribution, and how well it agrees with exact patching."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vlmdiff.figures.style import (
    BLACK,
    DOUBLE_MM,
    LIGHT,
    SEQUENTIAL,
    log_scale,
    message_figure,
    new_figure,
    series,
    styled,
)

COLUMNS = 4
PAIR = ("name", "layer", "head")
NOT_TRACED = "No feature was traced to heads."


def head_table(rows: pd.DataFrame, value: str, shape: tuple[int, int]) -> np.ndarray:
    """Return values as (layers, heads); NaN where a head was not eligible."""
    table = np.full(shape, np.nan)
    table[rows["layer"].to_numpy(), rows["head"].to_numpy()] = rows[value].to_numpy(float)
    return table


def draw_head_map(axis: Axes, table: np.ndarray, title: str, mark: bool = False) -> None:
    """Draw one map, scaled to its own maximum; grey: the head cannot influence the feature."""
    largest = np.nanmax(table) if np.isfinite(table).any() else 1.0
    axis.set_facecolor(LIGHT)
    axis.imshow(table / (largest or 1.0), cmap=SEQUENTIAL, vmin=0, vmax=1, origin="lower", aspect="auto")
    if mark and np.isfinite(table).any():
        layer, head = np.unravel_index(np.nanargmax(table), table.shape)
        axis.plot(head, layer, "o", mfc="none", mec=BLACK, mew=1.4, ms=7)
        title = f"{title}: L{layer}H{head}"
    axis.set_title(title)
    for set_ticks, size in ((axis.set_xticks, table.shape[1]), (axis.set_yticks, table.shape[0])):
        set_ticks(range(0, size, max(1, round(size / 6))))


@styled
def head_attribution(attribution: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Draw layer x head maps: method A for every feature, then both methods over all features.

    Args:
        attribution: HEAD_ATTRIBUTION of one concept and seed.
        scores: HEAD_SCORES of the same.
    """
    if attribution.empty or scores.empty:
        return message_figure(NOT_TRACED)
    shape = (int(scores["layer"].max()) + 1, int(scores["head"].max()) + 1)
    maps = [
        (head_table(rows, "method_a", shape), str(name), False)
        for name, rows in attribution.groupby("name", sort=False)
    ]
    maps += [
        (head_table(scores, column, shape), title, True)
        for column, title in (("score_a", "All, method A"), ("score_b", "All, method B"))
    ]
    lines = -(-len(maps) // COLUMNS)
    figure = new_figure(DOUBLE_MM, 12 + 40 * lines)
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    for axis, (table, title, mark) in zip(axes.flat, maps):
        draw_head_map(axis, table, title, mark)
    for axis in axes.flat[len(maps) :]:
        axis.set_axis_off()
    figure.supxlabel("Head", fontsize=7.5)
    figure.supylabel("Layer of the head", fontsize=7.5)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), SEQUENTIAL), ax=axes, aspect=40, pad=0.01)
    bar.set_label("Share of the panel's maximum")
    return figure


def spearman_labels(agreement: pd.DataFrame, method: str) -> dict[str, str]:
    """Return each feature's legend entry: its name and its correlation over all heads."""
    rows = agreement[agreement["method"] == method]
    return {name: f"{name}: {value:.2f}" for name, value in zip(rows["name"], rows["spearman"])}


def draw_scatter(axis: Axes, rows: pd.DataFrame, x: str, y: str, labels: Mapping[str, str]) -> None:
    """Draw one point per head and feature, hollow where the head stands for others too.

    Args:
        axis: the panel.
        rows: pairs of feature and head.
        x, y: columns.
        labels: legend entry of each feature.
    """
    for name, (colour, marker) in series(rows["name"]).items():
        part = rows[rows["name"] == name]
        for certain, face in ((True, colour), (False, "none")):
            points = part[(part["weight"] <= 1) == certain]
            label = labels[name] if certain else None
            axis.plot(
                points[x], points[y], marker, color=colour, ms=3, alpha=0.85, mfc=face, mew=0.5, label=label
            )
    legend = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.03), "handletextpad": 0.3}
    axis.legend(title="Spearman", title_fontsize=7, **legend)


@styled
def attribution_vs_exact(
    attribution: pd.DataFrame, patching: pd.DataFrame, agreement: pd.DataFrame
) -> Figure:
    """Draw attribution patching against exact activation patching of the same heads.

    Args:
        attribution: HEAD_ATTRIBUTION of one concept and seed.
        patching: HEAD_PATCHING of the same.
        agreement: HEAD_AGREEMENT of the same, whose correlations the legends tell.
    """
    columns = [*PAIR, "exact", "exact_abs", "weight"]
    rows = attribution.merge(patching[columns], on=list(PAIR), how="inner")
    if rows.empty:
        return message_figure(NOT_TRACED)
    figure = new_figure(DOUBLE_MM, 68)
    size, signed = figure.subplots(1, 2)
    draw_scatter(size, rows, "exact_abs", "score", spearman_labels(agreement, "score"))
    if (rows[["exact_abs", "score"]] > 0).all(axis=None):
        log_scale(size, "x")
        log_scale(size, "y")
    size.set(xlabel="Exact patching, mean |change of metric|", ylabel="Attribution, score (A and B)")
    draw_scatter(signed, rows, "exact", "signed", spearman_labels(agreement, "signed"))
    signed.axhline(0, color=BLACK, lw=0.4)
    signed.axvline(0, color=BLACK, lw=0.4)
    signed.set(xlabel="Exact patching, mean change of metric", ylabel="Attribution, signed")
    return figure

"""Quality of the dictionaries: by layer, by kind of token, over training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from vlmdiff.figures.style import (
    DOUBLE_MM,
    layer_axis,
    legend_above,
    log_scale,
    message_figure,
    new_figure,
    series,
    styled,
)

TOKENS = ("all", "text", "image")
COLUMNS = 4
FINAL = 100
# Beyond this ratio of largest to smallest FVU a linear axis hides the small ones.
LOG_RATIO = 20.0
# What is drawn of the snapshots of dictionaries: columns and their axes.
DYNAMICS = (("fvu", "Held-out FVU, text tokens"), ("cos_initial", "Median cosine with start"))
DICTIONARIES_MM, MODEL_MM = 54.0, 68.0


def draw_seeds(axis: Axes, frame: pd.DataFrame, x: str, y: str, label: str, look: tuple[str, str]) -> None:
    """Draw the mean over seeds as a line and their range as a band."""
    colour, marker = look
    grouped = frame.dropna(subset=[y]).groupby(x)[y].agg(["mean", "min", "max"])
    axis.plot(grouped.index, grouped["mean"], color=colour, marker=marker, label=label, clip_on=False)
    axis.fill_between(grouped.index, grouped["min"], grouped["max"], color=colour, alpha=0.2, linewidth=0)


def kinds(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Split an evaluation set by kind of token; where there is one kind only, all tokens are that kind."""
    found = [part for tokens in TOKENS if len(part := rows[rows["tokens"] == tokens])]
    return found if len(set(rows["tokens"]) - {"all"}) > 1 else found[-1:]


def draw_fvu_panel(axis: Axes, frame: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """Draw the FVU of each dictionary by layer, for one evaluation set and kind of token."""
    for name, look in looks.items():
        rows = frame[frame["dictionary"] == name]
        if len(rows):
            draw_seeds(axis, rows, "layer", "fvu", name, look)
    layer_axis(axis, frame["layer"])
    if frame["fvu"].max() > LOG_RATIO * frame["fvu"].clip(lower=1e-6).min():
        log_scale(axis, "y", plain="{x:g}")
    else:
        axis.set_ylim(bottom=0)


@styled
def fvu_by_layer(metrics: pd.DataFrame) -> Figure:
    """Draw held-out FVU by layer; a panel per evaluation set and kind of token, each with its own axis.

    Args:
        metrics: DICTIONARY_METRICS of every dictionary and seed.
    """
    final = metrics[(metrics["snapshot"] == FINAL) & (metrics["n_tokens"] > 0)]
    if final.empty:
        return message_figure("No dictionary was evaluated.")
    looks = series(final["dictionary"])
    panels = [panel for _, rows in final.groupby(["model", "dataset"], sort=False) for panel in kinds(rows)]
    lines = -(-len(panels) // COLUMNS)
    figure = new_figure(DOUBLE_MM, 12 + 46 * lines)
    grid = figure.subplots(lines, COLUMNS, squeeze=False)
    for axis, rows in zip(grid.flat, panels):
        draw_fvu_panel(axis, rows, looks)
        first = rows.iloc[0]
        axis.set_title(f"{first['model']}, {first['dataset']}\n{first['tokens']} tokens")
    for axis in grid.flat[len(panels) :]:
        axis.set_axis_off()
    for row in grid:
        row[0].set_ylabel("Held-out FVU")
    legend_above(figure, grid.flat, columns=6)
    return figure


def model_snapshots(accuracy: pd.DataFrame, snapshots: Mapping[str, int]) -> pd.DataFrame:
    """Return the accuracies with images of a model's snapshots, the last of which is the model itself."""
    rows = accuracy[accuracy["model"].isin(snapshots) & (accuracy["condition"] == "image")]
    return rows.assign(snapshot=rows["model"].map(snapshots)).sort_values(
        ["snapshot", "group"], kind="stable"
    )


def draw_accuracy_over_snapshots(axis: Axes, rows: pd.DataFrame) -> None:
    """Draw the accuracy on each kind of question of one data set over the model's fine-tuning."""
    for name, (colour, marker) in series(["all", *rows["group"]]).items():
        part = rows[rows["group"] == name].sort_values("snapshot")
        axis.plot(part["snapshot"], part["accuracy"], color=colour, marker=marker, label=name, clip_on=False)
    axis.set_xlabel("Fine-tuning of the model (%)")
    axis.set_xticks(sorted(rows["snapshot"].unique()))
    axis.set_title(rows["dataset"].iloc[0])
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)


def draw_dictionaries(part: SubFigure, rows: pd.DataFrame) -> None:
    """Draw FVU and rotation over the snapshots of dictionaries; one panel where none started from another."""
    panels = [one for one in DYNAMICS if rows[one[0]].notna().any()]
    axes = part.subplots(1, len(panels), squeeze=False)[0]
    looks = series(rows["dictionary"])
    for axis, (column, label) in zip(axes, panels):
        for name, look in looks.items():
            found = rows[(rows["dictionary"] == name) & rows[column].notna()]
            if len(found):
                by_seed = found.groupby(["seed", "snapshot"], as_index=False)[column].mean()
                draw_seeds(axis, by_seed, "snapshot", column, name, look)
        axis.set(xlabel="Training of the dictionary (%)", ylabel=label)
        axis.set_xticks(sorted(rows["snapshot"].unique()))
    legend_above(part, axes, columns=6)


def draw_model(part: SubFigure, rows: pd.DataFrame) -> None:
    """Draw the accuracy over the snapshots of a model, a panel per data set."""
    datasets = list(dict.fromkeys(rows["dataset"]))
    panels = part.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
    for axis, dataset in zip(panels, datasets):
        draw_accuracy_over_snapshots(axis, rows[rows["dataset"] == dataset])
    low = np.floor(10 * rows["accuracy"].min()) / 10
    panels[0].set(ylim=(low - 0.02, 1.02), ylabel="Held-out accuracy")


@styled
def training_dynamics(metrics: pd.DataFrame, accuracy: pd.DataFrame, snapshots: Mapping[str, int]) -> Figure:
    """Draw FVU and rotation over the snapshots of dictionaries, accuracy over those of the model.

    What has no snapshots takes no room.

    Args:
        metrics: DICTIONARY_METRICS with all snapshots; averaged over layers and evaluation sets.
        accuracy: ACCURACY, under the names of the config.
        snapshots: per cent of fine-tuning done, by the names of the fine-tuned model and its snapshots.
    """
    several = metrics.groupby("dictionary")["snapshot"].transform("nunique") > 1
    rows = metrics[several & (metrics["tokens"] == "text")].dropna(subset=["fvu", "cos_initial"], how="all")
    models = model_snapshots(accuracy, snapshots)
    drawn = []
    if len(rows):
        drawn.append((DICTIONARIES_MM, draw_dictionaries, rows))
    if models["snapshot"].nunique() > 1:
        drawn.append((MODEL_MM, draw_model, models))
    if not drawn:
        return message_figure("There are no snapshots of dictionaries and none of the model.")
    heights = [height for height, _, _ in drawn]
    figure = new_figure(DOUBLE_MM, sum(heights))
    parts = figure.subfigures(len(drawn), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (_, draw, table) in zip(parts, drawn):
        draw(part, table)
    return figure

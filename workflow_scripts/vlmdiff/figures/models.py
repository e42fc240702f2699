"""Accuracies of the models beside their controls."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.style import BLACK, DOUBLE_MM, legend_above, message_figure, new_figure, series, styled

CONDITIONS = MappingProxyType(
    {"image": "", "no_image": ", no image", "shuffled_image": ", another sample's image"}
)
ROW_MM = 4.6


def draw_group_rows(axis: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """Draw one data set: a line per group, a point with interval per model and condition."""
    groups = list(dict.fromkeys(["all", *rows["group"]]))
    place = {group: i for i, group in enumerate(groups)}
    offsets = np.linspace(-0.26, 0.26, max(len(looks), 2))
    for (name, (colour, marker)), offset in zip(looks.items(), offsets):
        part = rows[rows["label"] == name]
        y = part["group"].map(place) + offset
        spread = [part["accuracy"] - part["ci_low"], part["ci_high"] - part["accuracy"]]
        axis.errorbar(
            part["accuracy"], y, xerr=np.clip(spread, 0, None), fmt=marker, color=colour, label=name,
            elinewidth=0.8, markersize=2.8, clip_on=False,
        )  # fmt: skip
    chance = rows.groupby("group")[["chance", "guess"]].mean().max(axis=1)
    for i, (group, value) in enumerate(chance.items()):
        y = place[group]
        axis.plot(
            [value, value], [y - 0.42, y + 0.42], color=BLACK, lw=0.9, ls=":", label="" if i else "chance"
        )
    axis.set_yticks(range(len(groups)), groups)
    axis.set(xlim=(0, 1.0), ylim=(len(groups) - 0.45, -0.55), xlabel="Held-out accuracy")


@styled
def model_accuracy(accuracy: pd.DataFrame, model: str) -> Figure:
    """Draw the accuracy of the fine-tuned model and of those that see no images against chance.

    Args:
        accuracy: ACCURACY, under the names of the config.
        model: the fine-tuned model; others that see, such as its snapshots, are left out.
    """
    others = set(accuracy.loc[accuracy["condition"] == "image", "model"]) - {model}
    rows = accuracy[~accuracy["model"].isin(others) & (accuracy["n"] > 0)]
    if rows.empty:
        return message_figure("No model was asked any question.")
    rows = rows.assign(
        label=rows["model"] + rows["condition"].map(CONDITIONS).fillna(", " + rows["condition"])
    )
    datasets = list(dict.fromkeys(rows["dataset"]))
    looks = series(rows["label"])
    tallest = rows.groupby("dataset")["group"].nunique().max()
    columns = min(3, len(datasets))
    lines = -(-len(datasets) // columns)
    figure = new_figure(DOUBLE_MM, 14 + lines * (14 + ROW_MM * (tallest + 1)))
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, dataset in zip(axes, datasets):
        draw_group_rows(axis, rows[rows["dataset"] == dataset], looks)
        axis.set_title(dataset)
    for axis in list(axes)[len(datasets) :]:
        axis.set_axis_off()
    legend_above(figure, figure.axes, columns=6)
    return figure

"""What features really tell in the built-in world, beside what the selection rules say."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.confidence import ROW_MM, row_labels
from vlmdiff.figures.style import (
    BLUE,
    DOUBLE_MM,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    layer_axis,
    legend_above,
    message_figure,
    new_figure,
    styled,
)

CATEGORIES = MappingProxyType(
    {
        "place": ("place", BLUE),
        "relation": ("relation", SKY),
        "truth": ("truth", GREEN),
        "lexical": ("word", ORANGE),
        "kind": ("kind of prompt", YELLOW),
        "attribute": ("other attribute", PURPLE),
        "answer": ("answer", VERMILION),
        "none": ("nothing", LIGHT),
    }
)
RULES = MappingProxyType(
    {
        "live": "all live features",
        "visual": "visual",
        "adapted": "adapted",
        "contrast": "contrast",
        "contrast_visual": "contrast, visual",
        "contrast_lexical": "contrast, visual, lexical",
        "contrast_adapted": "contrast, adapted",
        "full": "full",
        "full_percentile": "full, by percentile",
        "full_calibrated": "full, calibrated",
    }
)


def draw_shares(axis: Axes, features: pd.DataFrame) -> None:
    """Draw for each layer the shares of final features by what they tell best."""
    told = features["category"].where(features["matches"], "none")
    counts = pd.crosstab(features["layer"], told)
    shares, bottom = counts.div(counts.sum(1), axis=0), np.zeros(len(counts))
    for name, (label, colour) in CATEGORIES.items():
        if name in shares:
            axis.bar(shares.index, shares[name], bottom=bottom, color=colour, width=0.8, label=label)
            bottom += shares[name].to_numpy()
    for layer, count in counts.sum(1).items():
        axis.text(layer, 1.02, f"{count}", ha="center", color=GREY)
    layer_axis(axis, shares.index)
    axis.set(ylim=(0, 1.1), ylabel="Final features, share by best match")


def draw_quality(axis: Axes, quality: pd.DataFrame, measure: str, names: list[str]) -> None:
    """Draw precision or recall of each rule by both definitions, a point a seed."""
    looks = (("best match", BLUE, "o", -0.14), ("any match", GREY, "s", 0.14))
    for definition, colour, marker, shift in looks:
        rows = quality[quality["definition"] == definition]
        y = rows["rule"].map({name: i for i, name in enumerate(names)}) + shift
        spread = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
        axis.errorbar(
            rows[measure], y, xerr=np.clip(spread, 0, None), fmt=marker, color=colour, ms=3.0, elinewidth=0.8,
            label=f"spatial by {definition}", clip_on=False,
        )  # fmt: skip
    axis.set(xlim=(0, 1), xlabel=measure.capitalize())


@styled
def ground_truth(truth: pd.DataFrame, final: pd.DataFrame, quality: pd.DataFrame) -> Figure:
    """Draw what final features tell best, and precision and recall of every selection rule.

    Args:
        truth: GROUND_TRUTH of all seeds.
        final: FINAL_FEATURES of a concept and all seeds.
        quality: RULE_QUALITY of the concept and all seeds.
    """
    features = final[["seed", "layer", "feature"]].merge(truth, on=["seed", "layer", "feature"])
    if features.empty:
        return message_figure("No feature passes every filter: nothing to hold against the scenes.")
    figure = new_figure(DOUBLE_MM, 38 + ROW_MM * len(RULES))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    axis = left.subplots()
    draw_shares(axis, features)
    legend_above(left, [axis], columns=2)
    axes, names = right.subplots(1, 2), list(RULES)
    for axis, measure in zip(axes, ("precision", "recall")):
        draw_quality(axis, quality[quality["layer"] < 0], measure, names)
        row_labels(axis, [RULES[name] for name in names] if axis is axes[0] else [""] * len(names))
    legend_above(right, axes, columns=2)
    return figure

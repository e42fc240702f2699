"""How sure are we: comparisons side by side, selection rules, recurrence over seeds."""

from __future__ import annotations

from collections.abc import Sequence
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
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    TARGET_COLOUR,
    legend_above,
    log_scale,
    message_figure,
    new_figure,
    styled,
)

ROW_MM = 6.5
COUNTS = MappingProxyType(
    {
        "adapted_percentile": ("adapted (percentile)", LIGHT, "s"),
        "adapted_calibrated": ("adapted (calibrated)", GREEN, "o"),
        "contrast": ("contrast", ORANGE, "^"),
        "final": ("final", BLUE, "D"),
    }
)
RULE_NAMES = MappingProxyType(
    {
        "random": "random live features",
        "scratch": "from scratch: contrast, visual, lexical",
        "contrast": "contrast",
        "contrast_visual": "contrast, visual",
        "contrast_lexical": "contrast, visual, lexical",
        "contrast_adapted": "contrast, adapted",
        "full": "contrast, adapted, lexical (full)",
    }
)


def row_labels(axis: Axes, labels: Sequence[str]) -> None:
    """Put one label a row, the first at the top, with thin lines between."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    for place in np.arange(0.5, len(labels) - 0.5):
        axis.axhline(place, color=LIGHT, lw=0.4, zorder=0)


def draw_counts(axis: Axes, table: pd.DataFrame, places: dict[str, int]) -> None:
    """Draw how many features pass each filter, on a scale that shows 0."""
    for column, (label, colour, marker) in COUNTS.items():
        y = table["comparison"].map(places)
        axis.plot(table[column], y, marker, color=colour, label=label, ms=3.6, clip_on=False, zorder=3)
    log_scale(axis, "x", "symlog", linthresh=10)
    axis.set_xlim(left=-0.5)
    axis.set_xlabel("Features (0 to 10 linear, then logarithmic)")


def draw_margins(axis: Axes, table: pd.DataFrame, places: dict[str, int]) -> None:
    """Draw what ablating the final features does to the margin of target and control."""
    known = table[table["size"] > 0]
    y = known["comparison"].map(places)
    spread = [
        known["target_margin"] - known["target_margin_low"],
        known["target_margin_high"] - known["target_margin"],
    ]
    axis.errorbar(
        known["target_margin"], y - 0.15, xerr=np.clip(spread, 0, None), fmt="o", color=TARGET_COLOUR, ms=3.4,
        elinewidth=0.9, label="final features ablated: target", zorder=3,
    )  # fmt: skip
    axis.plot(
        known["control_margin"], y + 0.15, "s", color=CONTROL_COLOUR, ms=3.2,
        label="final features ablated: control",
    )  # fmt: skip
    axis.plot(
        known["random_margin"], y - 0.15, "|", color=GREY, ms=6, mew=1.1, label="random live features: target"
    )
    for _, row in table[table["size"] == 0].iterrows():
        place = axis.get_yaxis_transform()
        axis.text(
            0.04, places[row["comparison"]], "nothing to ablate", color=GREY, va="center", transform=place
        )
    axis.axvline(0, color=BLACK, lw=0.5)
    axis.set_xlabel("Change of margin (logits)")
    axis.tick_params(labelleft=False)


@styled
def comparisons(table: pd.DataFrame) -> Figure:
    """Draw all comparisons of a target, a row each: what is found, what ablating it does.

    Args:
        table: COMPARISONS.
    """
    if table.empty:
        return message_figure("No comparison was made.")
    about = table.drop_duplicates("comparison")
    places = {name: i for i, name in enumerate(about["comparison"])}
    figure = new_figure(DOUBLE_MM, 24 + ROW_MM * len(places))
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    draw_counts(left, table, places)
    draw_margins(right, table, places)
    row_labels(left, list(about["about"]))
    row_labels(right, [""] * len(places))
    legend_above(figure, figure.axes, columns=4)
    return figure


def rule_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Name the rule of each row; the full rule of the from-scratch dictionary is a rule of its own."""
    whole = table[table["group"] == "all"]
    scratch = whole["comparison"].ne("main")
    kept = whole[~scratch | whole["rule"].eq("full")]
    return kept.assign(rule=np.where(kept["comparison"].ne("main"), "scratch", kept["rule"]))


def draw_rule(
    axis: Axes, rows: pd.DataFrame, place: float, measure: Measure, look: tuple[str, str, str]
) -> None:
    """Draw one rule's effect on one data set: every random subset, their mean, and the first features."""
    colour, marker, label = look
    is_random = rows["rule"].iloc[0] == "random"
    drawn = rows if is_random else rows[rows["draw"] > 0]
    values = drawn[measure.column].to_numpy() * measure.factor
    if len(values):
        axis.plot(values, np.full(len(values), place), "|", color=colour, ms=4, mew=0.5, alpha=0.6)
        axis.plot([values.mean()], [place], "|", color=colour, ms=9, mew=1.6)
    first = rows.iloc[:0] if is_random else rows[rows["draw"] == 0]
    columns = (measure.column, measure.low, measure.high)
    value, low, high = (first[column].to_numpy() * measure.factor for column in columns)
    axis.errorbar(
        value, place + np.linspace(0.1, 0.2, len(first)), xerr=np.clip([value - low, high - value], 0, None),
        fmt=marker, color=colour, ms=2.6, elinewidth=0.7, label=label,
    )  # fmt: skip


@styled
def selection_rules(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw what ablating features of each selection rule does: subsets as ticks, the strongest as points.

    Args:
        table: SELECTION of the main comparison and of the from-scratch dictionary, with a column `seed`.
        target, control: names of the data sets.
    """
    if table.empty:
        return message_figure("No selection rule gives a feature.")
    rows = rule_rows(table)
    rows = rows[rows["size"] == rows.loc[rows["rule"] != "random", "size"].max()]
    names = [name for name in RULE_NAMES if name in set(rows["rule"])]
    figure = new_figure(DOUBLE_MM, 22 + 1.2 * ROW_MM * len(names))
    axes = figure.subplots(1, 2)
    looks = {target: (TARGET_COLOUR, "o", f"strongest features, target ({target})", -0.26)}
    looks[control] = (CONTROL_COLOUR, "s", f"strongest features, control ({control})", 0.12)
    for axis, measure in zip(axes, (ACCURACY, MARGIN)):
        for place, name in enumerate(names):
            for dataset, (*look, shift) in looks.items():
                part = rows[(rows["rule"] == name) & (rows["dataset"] == dataset)]
                if len(part):
                    draw_rule(axis, part, place + shift, measure, tuple(look))
        axis.axvline(0, color=BLACK, lw=0.5)
        axis.set_xlabel(measure.label)
        row_labels(axis, [RULE_NAMES[name] for name in names] if axis is axes[0] else [""] * len(names))
    legend_above(figure, axes, columns=4)
    return figure


@styled
def recurrence(table: pd.DataFrame) -> Figure:
    """Draw how similar each feature's nearest feature in another seed is, and how often it is final too.

    Args:
        table: RECURRENCE of a concept.
    """
    if table.empty:
        return message_figure("There is only one seed, or no final feature.")
    figure = new_figure(DOUBLE_MM, 62)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    looks = {"final": (BLUE, "final features"), "control": (GREY, "other live features of their layers")}
    layers = sorted(table["layer"].unique())
    for arm, (colour, label) in looks.items():
        part = table[table["arm"] == arm]
        if part.empty:
            continue
        cosines = np.sort(part["cosine"].to_numpy())
        left.step(cosines, np.arange(1, len(cosines) + 1) / len(cosines), color=colour, label=label)
        share = part.groupby("layer")["match_final"].mean().reindex(layers)
        right.plot(layers, share, "o-", color=colour, ms=3.2)
    left.set(xlabel="Cosine with the nearest feature of another seed", ylabel="Cumulative share", ylim=(0, 1))
    right.set(ylabel="Nearest feature is final too (share)", ylim=(0, 1), xlabel="Layer", xticks=layers)
    legend_above(figure, [left], columns=2)
    return figure

"""How sure are we: comparisons side by side, selection rules, recurrence over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.config.comparisons import MAIN
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
from vlmdiff.figures.values import sets_of_size

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
        "random": "random, matched",
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
        known["random_margin"], y - 0.15, "|", color=GREY, ms=6, mew=1.1,
        label="matched random features: target",
    )  # fmt: skip
    for _, row in table[table["size"] == 0].iterrows():
        place = axis.get_yaxis_transform()
        axis.text(
            0.04, places[row["comparison"]], "nothing to ablate", color=GREY, va="center", transform=place
        )
    axis.axvline(0, color=BLACK, lw=0.5)
    axis.set_xlabel("Change of margin (logits)")
    axis.tick_params(labelleft=False)


@styled
def comparisons(table: pd.DataFrame, ablated: bool = True) -> Figure:
    """Draw all comparisons of a target, a row each: what is found, what ablating it does.

    Args:
        table: COMPARISONS.
        ablated: whether it was ablated; else only what is found is drawn.
    """
    if table.empty:
        return message_figure("No comparison was made.")
    about = table.drop_duplicates("comparison")
    places = {name: i for i, name in enumerate(about["comparison"])}
    figure = new_figure(DOUBLE_MM, 24 + ROW_MM * len(places))
    axes = figure.subplots(1, 1 + ablated, squeeze=False, width_ratios=(1.1, 1)[: 1 + ablated])[0]
    draw_counts(axes[0], table, places)
    row_labels(axes[0], list(about["about"]))
    if ablated:
        draw_margins(axes[1], table, places)
        row_labels(axes[1], [""] * len(places))
    legend_above(figure, figure.axes, columns=4)
    return figure


def draw_rule(
    axis: Axes, rows: pd.DataFrame, size: int, place: float, measure: Measure, look: tuple[str, str, str]
) -> None:
    """Draw one rule's effect on one data set: every random subset, their mean, and the first features.

    Args:
        axis: where to draw.
        rows: SELECTION of one rule and data set.
        size: how many features were asked for.
        place: where on the vertical axis.
        measure: accuracy or margin.
        look: colour, marker and label of the first features.
    """
    colour, marker, label = look
    is_random = rows["rule"].iloc[0] == "random"
    drawn = rows if is_random else sets_of_size(rows, size)
    values = drawn[measure.column].to_numpy() * measure.factor
    if len(values):
        axis.plot(values, np.full(len(values), place), "|", color=colour, ms=4, mew=0.5, alpha=0.6)
        axis.plot([values.mean()], [place], "|", color=colour, ms=9, mew=1.6)
    first = rows[rows["draw"].eq(0) & rows["size"].eq(rows["available"].clip(upper=size))]
    first = first.iloc[:0] if is_random else first
    columns = (measure.column, measure.low, measure.high)
    value, low, high = (first[column].to_numpy() * measure.factor for column in columns)
    axis.errorbar(
        value, place + np.linspace(0.1, 0.2, len(first)), xerr=np.clip([value - low, high - value], 0, None),
        fmt=marker, color=colour, ms=2.6, elinewidth=0.7, label=label,
    )  # fmt: skip


def rule_lines(
    table: pd.DataFrame, sizes: Sequence[int], rules: Mapping[str, Sequence[str]]
) -> list[tuple[str, int, pd.DataFrame]]:
    """Return label, size and rows of every line: rules by comparison and size, random sets of a size.

    A rule that gives fewer features than asked for says so, and one that gives none has no rows.
    """
    lines = []
    for comparison, names in rules.items():
        mine = table[table["comparison"] == comparison]
        about = "" if comparison == MAIN else f"{comparison}, "
        for size in sizes:
            used = set()
            for name in names:
                rows = mine[mine["rule"] == name]
                given = int(rows["available"].max()) if len(rows) else 0
                count = f"{size}" if given >= size else f"all {given}" if given else "gives none"
                used |= {min(given, size)} - {0}
                # Another comparison may ask for no rotation: its rule is named without its filters.
                said = RULE_NAMES[name] if comparison == MAIN else name.replace("_", ", ")
                lines.append((f"{about}{said}: {count}", size, rows))
            random = mine[mine["rule"] == "random"]
            for one in sorted(used & set(random["size"])):
                label = f"{about}{RULE_NAMES['random']}: {one}"
                if label not in [known for known, *_ in lines]:
                    lines.append((label, one, random[random["size"] == one]))
    return lines


@styled
def selection_rules(
    table: pd.DataFrame, data: tuple[str, str], sizes: Sequence[int], rules: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw what ablating features of each selection rule does: subsets as ticks, the strongest as points.

    Args:
        table: SELECTION of one concept, of the comparisons of the default target.
        data: names of target and control test data.
        sizes: how many features were asked for.
        rules: the rules of every comparison.
    """
    table = table[table["group"] == "all"]
    if table.empty:
        return message_figure("No selection rule gives a feature.")
    lines = rule_lines(table, sizes, rules)
    figure = new_figure(DOUBLE_MM, 22 + 1.2 * ROW_MM * len(lines))
    axes = figure.subplots(1, 2)
    target, control = data
    looks = {target: (TARGET_COLOUR, "o", f"strongest features, target ({target})", -0.26)}
    looks[control] = (CONTROL_COLOUR, "s", f"strongest features, control ({control})", 0.12)
    for axis, measure in zip(axes, (ACCURACY, MARGIN)):
        for place, (_, size, rows) in enumerate(lines):
            for dataset, (*look, shift) in looks.items():
                part = rows[rows["dataset"] == dataset]
                if len(part):
                    draw_rule(axis, part, size, place + shift, measure, tuple(look))
        axis.axvline(0, color=BLACK, lw=0.5)
        axis.set_xlabel(measure.label)
        row_labels(axis, [label for label, *_ in lines] if axis is axes[0] else [""] * len(lines))
    axes[0].plot([], [], "|", color=GREY, ms=4, mew=0.5, label="a random subset")
    axes[0].plot([], [], "|", color=GREY, ms=9, mew=1.6, label="mean of subsets")
    legend_above(figure, axes, columns=4)
    return figure


@styled
def recurrence(table: pd.DataFrame) -> Figure:
    """Draw how similar each feature's nearest feature in another seed is, and how often it is final too.

    Args:
        table: RECURRENCE of a concept.
    """
    if table.empty:
        return message_figure("There is no final feature in any seed.")
    figure = new_figure(DOUBLE_MM, 62)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    looks = {
        "final": (BLUE, "final features"),
        "control": (GREY, "controls: same layer, like firing rate"),
    }
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
    right.set(ylabel="Share whose nearest is final", ylim=(0, 1), xlabel="Layer", xticks=layers)
    legend_above(figure, [left], columns=2)
    return figure

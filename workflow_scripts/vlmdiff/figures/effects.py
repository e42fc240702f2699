"""Effects of interventions: what was selected beside matched random draws, target beside control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.style import (
    BLACK,
    CONTROL_COLOUR,
    DOUBLE_MM,
    LIGHT,
    TARGET_COLOUR,
    legend_above,
    message_figure,
    new_figure,
    styled,
)

SCOPE_TITLES = MappingProxyType({"own_layer": "ablated at own layer", "all_layers": "ablated at all layers"})
RANDOM = "random"


@dataclass(frozen=True)
class Measure:
    """A measured effect: its columns and how it is called on an axis."""

    column: str
    low: str
    high: str
    label: str
    factor: float


ACCURACY = Measure("delta_accuracy", "delta_low", "delta_high", "Change of accuracy (points)", 100.0)
MARGIN = Measure("delta_margin", "margin_low", "margin_high", "Change of margin (logits)", 1.0)
# What selected and random features are matched in, and what follows from it, on the target's questions.
MATCHED = (
    Measure("rate", "rate", "rate", "Firing rate (%)", 100.0),
    Measure("energy", "energy", "energy", "Energy", 1.0),
    Measure("removed", "removed", "removed", "Variance\nremoved (%)", 100.0),
)


@dataclass(frozen=True)
class Category:
    """One place on the horizontal axis: what was ablated, and the random draws beside it."""

    label: str
    chosen: pd.DataFrame
    random: pd.DataFrame


def draw_chosen(
    axis: Axes, rows: pd.DataFrame, x: float, measure: Measure, look: tuple[str, str, str]
) -> None:
    """Draw the effect of the selected ones with its interval."""
    colour, marker, label = look
    value = rows[measure.column].to_numpy() * measure.factor
    low, high = rows[measure.low].to_numpy() * measure.factor, rows[measure.high].to_numpy() * measure.factor
    axis.errorbar(
        np.full(len(value), x), value, yerr=np.clip([value - low, high - value], 0, None), fmt=marker,
        color=colour, elinewidth=0.9, ms=3.4, label=label, zorder=3,
    )  # fmt: skip


def draw_random(axis: Axes, rows: pd.DataFrame, x: float, measure: Measure, look: tuple[str, str]) -> None:
    """Draw every random draw as a point and their range as a line."""
    colour, label = look
    values = rows[measure.column].dropna().to_numpy() * measure.factor
    if len(values):
        axis.plot(
            [x, x], [values.min(), values.max()], color=colour, lw=2.6, alpha=0.25, solid_capstyle="butt"
        )
        axis.plot(np.full(len(values), x), values, "_", color=colour, ms=4, mew=0.6, label=label)


def category_places(categories: Sequence[Category]) -> list[float]:
    """Return the middle of each category; those with selected and random ones get more room."""
    widths = [1.6 if len(item.chosen) and len(item.random) else 1.0 for item in categories]
    ends = np.cumsum(widths)
    return list(ends - np.asarray(widths) / 2 - widths[0] / 2)


def draw_categories(
    axis: Axes, categories: Sequence[Category], measure: Measure, datasets: tuple[str, str]
) -> None:
    """Draw all categories of one panel, target left of control within each."""
    looks = ((TARGET_COLOUR, "o", "target"), (CONTROL_COLOUR, "s", "control"))
    places = category_places(categories)
    for place, category in zip(places, categories):
        for dataset, (colour, marker, name), shift in zip(datasets, looks, (-0.32, 0.12)):
            chosen = category.chosen[category.chosen["dataset"] == dataset]
            random = category.random[category.random["dataset"] == dataset]
            draw_chosen(
                axis, chosen, place + shift, measure, (colour, marker, f"selected, {name} ({dataset})")
            )
            draw_random(axis, random, place + shift + 0.2, measure, (colour, f"random pools, {name}"))
    axis.axhline(0, color=BLACK, lw=0.5)
    axis.locator_params(axis="y", nbins=6)
    axis.set_xticks(places, [category.label for category in categories])
    axis.set_xlim(-0.7, places[-1] + 0.7)
    for left, right in zip(places[:-1], places[1:]):
        axis.axvline((left + right) / 2, color=LIGHT, lw=0.4, zorder=0)
    if max((len(category.label) for category in categories), default=0) * len(categories) > 42:
        axis.tick_params(axis="x", labelrotation=90)


def feature_categories(table: pd.DataFrame) -> list[Category]:
    """Return the single features, random single features, then the sets by size."""
    singles = table[(table["size"] == 1) & (table["arm"] != RANDOM)]
    random = table[table["arm"] == RANDOM]
    nothing = table.iloc[:0]
    found = [Category(rows["features"].iloc[0], rows, nothing) for _, rows in singles.groupby("draw")]
    if len(single_random := random[random["size"] == 1]):
        found.append(Category("best random", nothing, single_random))
    for size in sorted(set(table["size"]) - {1}):
        rows = table[(table["size"] == size) & (table["arm"] != RANDOM)]
        found.append(Category(f"top {size}", rows, random[random["size"] == size]))
    return found


def group_categories(table: pd.DataFrame, datasets: tuple[str, str]) -> list[Category]:
    """Return the groups of target and control with the selected and the random rows of each."""
    found = []
    for dataset in datasets:
        part = table[(table["dataset"] == dataset) & (table["group"] != "all")]
        for group, rows in part.groupby("group", sort=True):
            found.append(Category(str(group), rows[rows["arm"] != RANDOM], rows[rows["arm"] == RANDOM]))
    return found


def scopes_of(table: pd.DataFrame) -> list[str]:
    """Return the scopes that the table holds, in the order of drawing."""
    return [scope for scope in SCOPE_TITLES if (table["scope"] == scope).any()]


@styled
def ablation_effects(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw the test effect of single features and sets, and how well the random ones match.

    Rows: accuracy, margin; firing rate, energy and variance removed on the target's questions. Columns:
    scopes.

    Args:
        table: ABLATION of one concept and seed.
        target: the concept's test data.
        control: the general test data.
    """
    whole = table[table["group"] == "all"]
    if whole.empty:
        return message_figure("No feature passed all filters: nothing was ablated.")
    scopes = scopes_of(whole)
    figure = new_figure(DOUBLE_MM, 190)
    heights = [2, 2, *(1 for _ in MATCHED)]
    axes = figure.subplots(
        len(heights), len(scopes), squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights}
    )
    panels = [(measure, (target, control)) for measure in (ACCURACY, MARGIN)]
    panels += [(measure, (target, "")) for measure in MATCHED]
    for row, (measure, datasets) in zip(axes, panels):
        for axis, scope in zip(row, scopes):
            categories = feature_categories(whole[whole["scope"] == scope])
            draw_categories(axis, categories, measure, datasets)
        row[0].set_ylabel(measure.label)
    for axis, scope in zip(axes[0], scopes):
        axis.set_title(SCOPE_TITLES[scope])
    for axis in axes[:-1].flat:
        axis.tick_params(axis="x", labelbottom=False)
    legend_above(figure, axes[:2].flat, columns=4, first="selected")
    return figure


@styled
def ablation_by_group(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw the test effect of the largest set on every relation and kind of question.

    Rows: accuracy, margin (accuracy may saturate where the margin still moves); columns: scopes.

    Args:
        table: ABLATION of one concept and seed.
        target: the concept's test data.
        control: the general test data.
    """
    sets = table[(table["size"] > 1) & (table["group"] != "all")]
    if sets.empty:
        return message_figure("No feature passed all filters: no set was ablated.")
    size = sets["size"].max()
    sets = sets[sets["size"] == size]
    scopes = scopes_of(sets)
    figure = new_figure(DOUBLE_MM, 120)
    axes = figure.subplots(2, len(scopes), squeeze=False, sharex=True, sharey="row")
    for row, measure in zip(axes, (ACCURACY, MARGIN)):
        for axis, scope in zip(row, scopes):
            categories = group_categories(sets[sets["scope"] == scope], (target, control))
            draw_categories(axis, categories, measure, (target, control))
        row[0].set_ylabel(measure.label)
    for axis, scope in zip(axes[0], scopes):
        axis.set_title(f"top {size}, {SCOPE_TITLES[scope]}")
    legend_above(figure, axes.flat, columns=4, first="selected")
    return figure


@styled
def head_ablation(table: pd.DataFrame, target: str, control: str) -> Figure:
    """Draw the test effect of ablating the top heads beside random heads.

    Args:
        table: HEAD_ABLATION of one concept and seed.
        target: the concept's test data.
        control: the general test data.
    """
    whole = table[table["group"] == "all"]
    if whole.empty:
        return message_figure("No feature was traced: no head was ablated.")
    random = whole[whole["arm"] == RANDOM]
    categories = [
        Category(rows["heads"].iloc[0].replace(";", "\n"), rows, random[random["size"] == size])
        for size, rows in whole[whole["arm"] != RANDOM].groupby("size")
    ]
    figure = new_figure(DOUBLE_MM, 72)
    axes = figure.subplots(1, 2)
    for axis, measure in zip(axes, (ACCURACY, MARGIN)):
        draw_categories(axis, categories, measure, (target, control))
        axis.set(ylabel=measure.label, xlabel="Heads ablated together")
        axis.tick_params(axis="x", labelrotation=0)
    legend_above(figure, axes, columns=4, first="selected")
    return figure

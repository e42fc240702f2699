"""Which features prefer a concept, and how many each filter leaves."""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.config.concepts import COUNTS
from vlmdiff.figures.style import (
    BLACK,
    BLUE,
    DOUBLE_MM,
    GREY,
    LIGHT,
    ORANGE,
    SKY,
    layer_axis,
    legend_above,
    log_scale,
    message_figure,
    new_figure,
    power,
    series,
    styled,
)

STAGES = MappingProxyType(
    {
        "all": "all features",
        "visual": "visual energy",
        "adapted": "adapted",
        "contrast": "contrast",
        "adapted_and_contrast": "adapted and contrast",
        "final": "final",
    }
)
UNITS = ("token", "sample")
# Distance of infinite odds ratios from the largest finite one, in doublings.
EDGE = 1.5
# Share of the finite odds ratios that are drawn at the left edge.
LOWEST = 0.02
# Room below zero, as a fraction of the axis.
AXIS_GAP = 0.03


def volcano_coordinates(contrast: pd.DataFrame) -> pd.DataFrame:
    """Add log2 odds ratio (infinite: beside the largest finite one) and -log10 p; drop undefined rows.

    The lowest ratios, none of them significant, are gathered at the left edge: they would fill half the axis.
    """
    rows = contrast[contrast["odds_ratio"].notna() & contrast["log_p"].notna()]
    with np.errstate(divide="ignore"):
        odds = np.log2(rows["odds_ratio"].to_numpy(float))
    finite = odds[np.isfinite(odds)]
    low, high = (np.quantile(finite, LOWEST), finite.max()) if len(finite) else (-1.0, 1.0)
    return rows.assign(x=np.clip(odds, low, high + EDGE), y=-rows["log_p"] / math.log(10))


def effect_coordinates(contrast: pd.DataFrame) -> pd.DataFrame:
    """Add effect size and -log10 p of a contrast between values of a label."""
    return contrast.assign(x=contrast["effect_size"], y=-contrast["log_p"] / math.log(10))


def ratio_axis(axis: Axes, rows: pd.DataFrame) -> None:
    """Label the odds ratios themselves, in powers of two, and the edge of the infinite ones."""
    finite = rows.loc[np.isfinite(rows["odds_ratio"]), "x"]
    low, high = (finite.min(), finite.max()) if len(finite) else (-1.0, 1.0)
    exponents = [value for value in range(-60, 61, 3) if low < value <= high]
    ticks = {value: power(f"2^{{{value}}}") for value in exponents}
    if np.isinf(rows["odds_ratio"]).any():
        ticks[rows["x"].max()] = "∞"
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlim(low - EDGE / 2, rows["x"].max() + EDGE / 2)
    axis.set_xlabel("Odds ratio, target to baseline (lowest at the left edge)")


def signed_root(values: np.ndarray) -> np.ndarray:
    """Square root that keeps the sign: spreads small and shows huge values alike."""
    return np.sign(values) * np.sqrt(np.abs(values))


def signed_square(values: np.ndarray) -> np.ndarray:
    """Inverse of `signed_root`."""
    return np.sign(values) * np.square(values)


def draw_volcano(axis: Axes, rows: pd.DataFrame, keys: dict[str, pd.MultiIndex]) -> None:
    """Draw all features of one unit, each in the colour of the last filter that it passes."""
    place = pd.MultiIndex.from_frame(rows[["layer", "feature"]])
    adapted, final = place.isin(keys["adapted"]), place.isin(keys["final"])
    chosen = rows["selected"].to_numpy(bool)
    kinds = (
        ("not selected", ~chosen & ~final, LIGHT, 3),
        ("selected by contrast", chosen & ~adapted & ~final, SKY, 4),
        ("selected and adapted", chosen & adapted & ~final, BLUE, 5),
        ("final", final, ORANGE, 12),
    )
    for label, mask, colour, size in kinds:
        # A million points without any edge colour would be drawn one by one.
        edge, width = (BLACK, 0.4) if label == "final" else (colour, 0.0)
        axis.scatter(
            rows.loc[mask, "x"], rows.loc[mask, "y"], s=size, color=colour, edgecolor=edge, lw=width,
            rasterized=True, label=label,
        )  # fmt: skip


@styled
def contrast_volcano(
    contrast: pd.DataFrame, adapted: pd.DataFrame, final: pd.DataFrame, by: str, smallest: float
) -> Figure:
    """Draw effect against significance of every feature: counted per token and per sample, or by image.

    Args:
        contrast: CONTRAST of one concept and seed.
        adapted: ADAPTED of that seed.
        final: FINAL_FEATURES of that concept and seed.
        by: the concept's contrast.
        smallest: the config's smallest odds ratio, or effect size.
    """
    counted = by == COUNTS
    rows = volcano_coordinates(contrast) if counted else effect_coordinates(contrast)
    if rows.empty:
        return message_figure("No feature fired on the concept or its baseline.")
    passed = {"adapted": adapted[adapted["adapted"]], "final": final}
    keys = {
        name: pd.MultiIndex.from_frame(table[["layer", "feature"]].astype("int64"))
        for name, table in passed.items()
    }
    units = [unit for unit in UNITS if (rows["unit"] == unit).any()]
    figure = new_figure(DOUBLE_MM, 78)
    axes = figure.subplots(1, len(units), squeeze=False)[0]
    for axis, unit in zip(axes, units):
        shown = rows[rows["unit"] == unit]
        draw_volcano(axis, shown, keys)
        axis.axvline(math.log2(smallest) if counted else smallest, color=GREY, ls="--", lw=0.8)
        axis.set_yscale("function", functions=(signed_root, signed_square))
        axis.set_ylim(bottom=-(AXIS_GAP**2) * max(float(shown["y"].max()), 1.0))
        if counted:
            axis.set_title(f"counted per {unit}")
            ratio_axis(axis, rows)
        else:
            axis.set_xlim(left=0)
            axis.set_xlabel("Difference between values of the label, Cohen's d")
    axes[0].set_ylabel(f"−log10 p, {'one-sided Fisher' if counted else 'images as clusters'}")
    legend_above(figure, axes, columns=4)
    return figure


def draw_totals(axis: Axes, totals: pd.DataFrame) -> None:
    """Draw how many features of all layers each stage leaves; paler, those that are not calibrated."""
    counts = totals.set_index("stage")[["features", "uncalibrated"]]
    counts = counts.reindex(list(STAGES)).fillna(0).astype(int)
    values, apart = counts["features"], counts["uncalibrated"]
    looks = series(STAGES)
    colours = [looks[stage][0] for stage in values.index]
    axis.barh(range(len(values)), values - apart, color=colours, height=0.66)
    axis.barh(range(len(values)), apart, left=values - apart, color=colours, height=0.66, alpha=0.3)
    for i, (value, pale) in enumerate(zip(values, apart, strict=True)):
        axis.text(value, i, f" {value:,} ({pale:,})" if pale else f" {value:,}", va="center")
    axis.set_yticks(range(len(values)), list(STAGES.values()))
    axis.invert_yaxis()
    axis.margins(x=0.36)
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("Features, all layers (paler: not calibrated)")


@styled
def funnel(table: pd.DataFrame) -> Figure:
    """Draw the features that each filter leaves, in all and by layer.

    Args:
        table: FUNNEL of one concept and seed.
    """
    layers = table[table["layer"] >= 0]
    if layers.empty:
        return message_figure("The funnel is empty.")
    figure = new_figure(DOUBLE_MM, 62)
    left, right = figure.subplots(1, 2)
    draw_totals(left, table[table["layer"] < 0])
    # Later stages are thinner, so that an earlier one of the same size shows around them.
    sizes = np.linspace(6.0, 2.8, len(STAGES))
    for (stage, (colour, marker)), size in zip(series(STAGES).items(), sizes):
        rows = layers[layers["stage"] == stage].sort_values("layer")
        right.plot(
            rows["layer"], rows["features"], color=colour, marker=marker, ms=size, lw=size / 2.6, mew=0,
            clip_on=False,
        )  # fmt: skip
    if (layers["features"] > 0).all():
        log_scale(right, "y", plain="{x:,.0f}")
    else:
        log_scale(right, "y", "symlog", plain="{x:,.0f}", linthresh=1)
        right.set_ylim(bottom=0)
    right.set_ylabel("Features (colours as left)")
    layer_axis(right, layers["layer"])
    return figure

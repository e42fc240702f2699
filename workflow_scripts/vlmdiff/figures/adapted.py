"""What fine-tuning did to the features: rotation, energy, and what the two rules select."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmdiff.figures.style import (
    BLACK,
    BLUE,
    DOUBLE_MM,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SINGLE_MM,
    SKY,
    VERMILION,
    layer_axis,
    legend_above,
    log_scale,
    message_figure,
    new_figure,
    styled,
)

RULES = ("percentile", "calibrated")
RULE_COLOUR = MappingProxyType({"percentile": PURPLE, "calibrated": BLUE})
RULE_LINE = MappingProxyType({"percentile": "--", "calibrated": "-"})
BINS = 60


def draw_taus(axis: Axes, thresholds: pd.DataFrame) -> None:
    """Draw the cosine threshold of each rule and seed as a vertical line."""
    for rule in RULES:
        values = thresholds.loc[(thresholds["rule"] == rule) & (thresholds["layer"] < 0), "tau"].dropna()
        for i, tau in enumerate(values):
            label = f"{rule} threshold" if i == 0 else ""
            axis.axvline(tau, color=RULE_COLOUR[rule], ls=RULE_LINE[rule], lw=0.9, label=label)


def energy_floor(energy: pd.Series) -> float:
    """Return a value below all positive energies, where the zeros of a log axis are drawn."""
    positive = energy[energy > 0]
    return float(positive.min()) / 3 if len(positive) else 1e-6


@styled
def energy_vs_cosine(adapted: pd.DataFrame, thresholds: pd.DataFrame, final: pd.DataFrame) -> Figure:
    """Draw visual energy against decoder cosine, one point a feature, thresholds and final set over it.

    What is not calibrated, because the null's text never fired it, is told apart.

    Args:
        adapted: ADAPTED of one seed.
        thresholds: THRESHOLDS of that seed.
        final: FINAL_FEATURES of a concept and that seed.
    """
    if adapted.empty:
        return message_figure("No features to compare.")
    floor = energy_floor(adapted["visual_energy"])
    figure = new_figure(SINGLE_MM, 84)
    axis = figure.subplots()
    known = adapted["calibrated"]
    for chosen, colour, label in (
        (~adapted["adapted"], LIGHT, "not adapted"),
        (adapted["adapted"] & known, SKY, "adapted"),
        (adapted["adapted"] & ~known, GREEN, "adapted, not calibrated"),
    ):
        rows = adapted[chosen]
        axis.scatter(
            rows["cos_decoder"], rows["visual_energy"].clip(lower=floor), s=2.5, color=colour, lw=0,
            rasterized=True, label=f"{label} ({len(rows)})",
        )  # fmt: skip
    for chosen, colour, label in (
        (final["calibrated"], ORANGE, "final"), (~final["calibrated"], "white", "final, not calibrated")
    ):  # fmt: skip
        rows = final[chosen]
        axis.scatter(
            rows["cos_decoder"], rows["visual_energy"].clip(lower=floor), s=12, color=colour,
            edgecolor=BLACK, lw=0.4, zorder=4, label=f"{label} ({len(rows)})",
        )  # fmt: skip
    draw_taus(axis, thresholds)
    for eps in thresholds["eps"].unique():
        axis.axhline(eps, color=GREY, ls=":", lw=0.9, label="energy threshold")
    log_scale(axis, "y")
    axis.set(
        xlabel="Decoder cosine, base to adapted", ylabel="Visual energy, mean of z² (zeros at the floor)"
    )
    axis.set_ylim(bottom=floor / 1.6)
    legend_above(figure, [axis], columns=2)
    return figure


def draw_histograms(axis: Axes, adapted: pd.DataFrame) -> None:
    """Draw how many features have which cosine, after multimodal tuning and in the null.

    A feature that the null's text never fired did not turn in it: it is counted after tuning, and apart.
    """
    low = min(adapted["cos_decoder"].min(), adapted["null_cos_decoder"].min())
    edges = np.linspace(low, max(1.0, low + 1e-3), BINS + 1)
    known = adapted[adapted["calibrated"]]
    for values, colour, label in (
        (known["null_cos_decoder"], GREY, "null (text again)"),
        (known["cos_decoder"], ORANGE, "adapted (with images)"),
    ):
        axis.hist(values.dropna(), bins=edges, color=colour, alpha=0.35)
        axis.hist(values.dropna(), bins=edges, color=colour, histtype="step", label=label)
    apart = adapted.loc[~adapted["calibrated"], "cos_decoder"].dropna()
    axis.hist(apart, bins=edges, color=VERMILION, histtype="step", ls=":", label="adapted, not calibrated")
    log_scale(axis, "y")
    axis.set(xlabel="Decoder cosine with base", ylabel="Features, all layers")


def draw_layer_quantiles(axis: Axes, adapted: pd.DataFrame) -> None:
    """Draw median and 5 to 95 % range of the cosines of calibrated features by layer."""
    adapted = adapted[adapted["calibrated"]]
    for column, colour, marker, shift in (
        ("null_cos_decoder", GREY, "s", -0.1),
        ("cos_decoder", ORANGE, "o", 0.1),
    ):
        bands = adapted.groupby("layer")[column].quantile([0.05, 0.5, 0.95]).unstack()
        spread = [bands[0.5] - bands[0.05], bands[0.95] - bands[0.5]]
        axis.errorbar(bands.index + shift, bands[0.5], yerr=spread, fmt=marker, color=colour, elinewidth=0.9)
    layer_axis(axis, adapted["layer"])
    axis.set_ylabel("Cosine: median, 5 to 95 %")


@styled
def cosine_distributions(adapted: pd.DataFrame, thresholds: pd.DataFrame) -> Figure:
    """Draw the decoder cosines after multimodal tuning beside those of the null dictionary.

    Args:
        adapted: ADAPTED of all seeds.
        thresholds: THRESHOLDS of all seeds.
    """
    if adapted.empty:
        return message_figure("No features to compare.")
    figure = new_figure(DOUBLE_MM, 66)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    draw_histograms(left, adapted)
    draw_taus(left, thresholds)
    draw_layer_quantiles(right, adapted)
    legend_above(figure, [left], columns=5)
    return figure


@styled
def adapted_by_layer(thresholds: pd.DataFrame) -> Figure:
    """Draw the number of adapted features by layer under both rules, and what the rules select of the nulls.

    The paler upper part of a bar is not calibrated: the null's text never fired these features.

    Args:
        thresholds: THRESHOLDS of all seeds; bars are means over seeds, dots the single seeds.
    """
    counts = thresholds[thresholds["layer"] >= 0]
    if counts.empty:
        return message_figure("No features to count.")
    figure = new_figure(SINGLE_MM, 74)
    axis = figure.subplots()
    for rule, shift in zip(RULES, (-0.2, 0.2)):
        draw_rule(axis, counts[counts["rule"] == rule], RULE_COLOUR[rule], shift, rule)
    layer_axis(axis, counts["layer"])
    axis.set_ylabel("Adapted features")
    legend_above(figure, [axis], columns=2)
    return figure


def draw_rule(axis: Axes, rows: pd.DataFrame, colour: str, shift: float, rule: str) -> None:
    """Draw one rule's counts by layer: calibrated, not calibrated, and of the nulls."""
    columns = ["adapted", "adapted_uncalibrated", "null_adapted", "untuned_adapted"]
    mean = rows.groupby("layer")[columns].mean()
    place, apart = mean.index + shift, mean["adapted_uncalibrated"]
    axis.bar(place, mean["adapted"] - apart, 0.36, color=colour, alpha=0.7, label=f"{rule} rule")
    axis.bar(
        place, apart, 0.36, bottom=mean["adapted"] - apart, color=colour, alpha=0.25,
        label="paler: not calibrated",
    )  # fmt: skip
    axis.bar(
        place, mean["null_adapted"], 0.36, facecolor="white", edgecolor=BLACK, hatch="//////", lw=0.6,
        label="null under the same rule",
    )  # fmt: skip
    if mean["untuned_adapted"].notna().any():
        axis.plot(
            place, mean["untuned_adapted"], "_", color=VERMILION, ms=9, mew=1.6,
            label="never tuned, same rule",
        )  # fmt: skip
    if rows["seed"].nunique() > 1:
        axis.plot(rows["layer"] + shift, rows["adapted"], "o", color=BLACK, ms=2)

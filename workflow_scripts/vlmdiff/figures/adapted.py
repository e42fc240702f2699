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
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SINGLE_MM,
    SKY,
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
        values = thresholds.loc[thresholds["rule"] == rule, "tau"].dropna()
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
    for flag, colour, label in ((False, LIGHT, "not adapted"), (True, SKY, "adapted")):
        rows = adapted[adapted["adapted"] == flag]
        axis.scatter(
            rows["cos_decoder"], rows["visual_energy"].clip(lower=floor), s=2.5, color=colour, lw=0,
            rasterized=True, label=f"{label} ({len(rows)})",
        )  # fmt: skip
    axis.scatter(
        final["cos_decoder"], final["visual_energy"].clip(lower=floor), s=12, color=ORANGE,
        edgecolor=BLACK, lw=0.4, zorder=4, label=f"final ({len(final)})",
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
    """Draw how many features have which cosine, after multimodal tuning and in the null."""
    low = min(adapted["cos_decoder"].min(), adapted["null_cos_decoder"].min())
    edges = np.linspace(low, max(1.0, low + 1e-3), BINS + 1)
    for column, colour, label in (
        ("null_cos_decoder", GREY, "null (text again)"),
        ("cos_decoder", ORANGE, "adapted (with images)"),
    ):
        axis.hist(adapted[column].dropna(), bins=edges, color=colour, alpha=0.35)
        axis.hist(adapted[column].dropna(), bins=edges, color=colour, histtype="step", label=label)
    log_scale(axis, "y")
    axis.set(xlabel="Decoder cosine with base", ylabel="Features, all layers")


def draw_layer_quantiles(axis: Axes, adapted: pd.DataFrame) -> None:
    """Draw median and 5 to 95 % range of the cosines by layer."""
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
    legend_above(figure, [left], columns=4)
    return figure


def adapted_counts(adapted: pd.DataFrame, thresholds: pd.DataFrame) -> pd.DataFrame:
    """Count by seed, layer and rule what is selected, and what would be were the null the adapted one."""
    parts = []
    for seed, rule, tau, eps in thresholds[["seed", "rule", "tau", "eps"]].itertuples(index=False):
        rows = adapted[adapted["seed"] == seed]
        would_be = (rows["null_cos_decoder"] <= tau) & (rows["visual_energy"] > eps)
        counts = pd.DataFrame({"layer": rows["layer"], "adapted": rows[f"adapted_{rule}"], "null": would_be})
        parts.append(counts.groupby("layer", as_index=False).sum().assign(seed=seed, rule=rule))
    return pd.concat(parts, ignore_index=True)


@styled
def adapted_by_layer(adapted: pd.DataFrame, thresholds: pd.DataFrame) -> Figure:
    """Draw the number of adapted features by layer under both rules, and the null's false positives.

    Args:
        adapted: ADAPTED of all seeds; bars are means over seeds, dots the single seeds.
        thresholds: THRESHOLDS of all seeds.
    """
    if adapted.empty or thresholds.empty:
        return message_figure("No features to count.")
    counts = adapted_counts(adapted, thresholds)
    figure = new_figure(SINGLE_MM, 68)
    axis = figure.subplots()
    for rule, shift in zip(RULES, (-0.2, 0.2)):
        rows = counts[counts["rule"] == rule]
        mean = rows.groupby("layer")[["adapted", "null"]].mean()
        colour = RULE_COLOUR[rule]
        axis.bar(mean.index + shift, mean["adapted"], 0.36, color=colour, alpha=0.6, label=f"{rule} rule")
        axis.bar(
            mean.index + shift, mean["null"], 0.36, facecolor="white", edgecolor=BLACK, hatch="//////",
            lw=0.6, label="null under the same rule",
        )  # fmt: skip
        if rows["seed"].nunique() > 1:
            axis.plot(rows["layer"] + shift, rows["adapted"], "o", color=BLACK, ms=2)
    layer_axis(axis, counts["layer"])
    axis.set_ylabel("Adapted features")
    legend_above(figure, [axis], columns=2)
    return figure

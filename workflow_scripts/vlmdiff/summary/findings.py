"""What was found, in a few plain sentences at the head of the summary."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from vlmdiff.summary.causal import Intervention, interventions
from vlmdiff.summary.text import change, escape, interval, number

NAMED_HEADS = 3


def mean_of(values: pd.Series) -> str:
    """Write a count, or its mean over seeds."""
    return f"{values.mean():.0f}"


def say_features(thresholds: pd.DataFrame, funnel: pd.DataFrame, rule: str) -> str:
    """Say how many features adapted and how many pass every filter of a concept."""
    rows = thresholds[(thresholds["rule"] == rule) & (thresholds["layer"] < 0)]
    text = ""
    if len(rows):
        text = (
            f"Of {mean_of(rows['features'])} features {mean_of(rows['adapted'])} are adapted by the "
            f"{rule} rule (the null dictionary would give {mean_of(rows['null_adapted'])})."
        )
    final = funnel[(funnel["layer"] < 0) & (funnel["stage"] == "final")]
    counts = [
        f"{escape(concept)} {mean_of(part['features'])}"
        for concept, part in final.groupby("concept", sort=False)
    ]
    return f"{text} Features that pass every filter: {', '.join(counts)}." if counts else text


def strongest(found: Iterable[tuple[str, Intervention]]) -> tuple[str, Intervention] | None:
    """Return the intervention that fails fewest criteria; of several, the one that lowers the margin most."""

    def failures_then_margin(pair: tuple[str, Intervention]) -> tuple[int, float]:
        _, item = pair
        return len(item.accuracy.failures()) + len(item.margin.failures()), item.margin.target.value

    return min(found, key=failures_then_margin, default=None)


def say_effect(found: tuple[str, Intervention], data: tuple[str, str]) -> str:
    """Say what one intervention does to target and control, and what random draws do to the target."""
    name, item = found
    target, control = map(escape, data)
    parts = []
    for measure, unit, compared in (("accuracy", "points", item.accuracy), ("margin", "logits", item.margin)):
        draws = pd.Series(compared.random, dtype=float).mean()
        parts.append(
            f"{measure} changes by {interval(compared.target, measure)} {unit} on {target} "
            f"(matched random draws: {change(draws, measure)} on average) and by "
            f"{interval(compared.control, measure)} on {control}"
        )
    kinds = [("accuracy", item.accuracy), ("margin", item.margin)]
    specific = [kind for kind, compared in kinds if not compared.failures()]
    verdict = f"specific by {' and '.join(specific)}" if specific else "not specific"
    return f"{name}: {'; '.join(parts)}. This is {verdict}."


def say_ablation(ablation: pd.DataFrame, data: tuple[str, str]) -> str:
    """Say what the set of features with the clearest effect does."""
    whole = ablation[(ablation["group"] == "all") & (ablation["size"] > 1)]
    found = [
        (f"{escape(concept)}, {item.name}, {scope.replace('_', ' ')}, seed {seed}", item)
        for (concept, seed, scope), rows in whole.groupby(["concept", "seed", "scope"])
        for item in interventions(rows, "features", data)
    ]
    best = strongest(found)
    return (
        f"Clearest effect of ablating a set of features, {say_effect(best, data)}"
        if best
        else "No set of features was ablated."
    )


def say_heads(
    scores: pd.DataFrame, agreement: pd.DataFrame, ablation: pd.DataFrame, data: tuple[str, str]
) -> str:
    """Name the top heads, how far attribution agrees with exact patching, and what ablating heads does."""
    if scores.empty:
        return "No feature was traced to heads."
    names = scores.groupby("name")["score"].mean().sort_values(ascending=False).head(NAMED_HEADS).index
    text = f"Attribution names the heads {', '.join(map(escape, names))} first"
    pooled = agreement[(agreement["name"] == "pooled") & (agreement["method"] == "method_a")]["spearman"]
    if len(pooled):
        text += f"; its Spearman correlation with exact patching is {number(pooled.mean())}"
    whole = ablation[ablation["group"] == "all"]
    found = [
        (f"{item.members}, seed {seed}", item)
        for seed, rows in whole.groupby("seed")
        for item in interventions(rows, "heads", data)
    ]
    best = strongest(found)
    return f"{text}. Clearest effect of ablating heads, {say_effect(best, data)}" if best else f"{text}."


def say_claims(counts: Iterable[tuple[str, int, int]]) -> str:
    """Say how many claims of each chapter met their criterion.

    Args:
        counts: title, claims tested and claims that failed of each chapter.
    """
    parts = [f"{title} {tested - failed} of {tested}" for title, tested, failed in counts]
    return f"Claims that met their criterion: {', '.join(parts)}."

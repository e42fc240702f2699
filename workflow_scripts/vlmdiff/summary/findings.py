"""What was found, in a few plain sentences at the head of the summary."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from vlmdiff.summary.causal import Headline, say_set, set_results
from vlmdiff.summary.text import escape, number

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


def say_ablation(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> str:
    """Say what the set that the config fixed does, and whether only to the concept."""
    result = set_results(ablation, headline, data)[0]
    whole, failed = result.over_seeds(headline.measure), result.failures(headline.measure)
    if whole is None:
        return f"Headline: {say_set(result, headline.measure, data)}."
    if not whole.testable:
        answer = f"This cannot be tested with {len(whole.draws)} pools"
    else:
        answer = "This is specific" if not failed else f"This is not specific: {'; '.join(failed)}"
    sentence = say_set(result, headline.measure, data)
    return f"Headline: {sentence}. {answer}."


def say_heads(scores: pd.DataFrame, agreement: pd.DataFrame) -> str:
    """Name the top heads, and how far attribution agrees with exact patching."""
    if scores.empty:
        return "No feature was traced to heads."
    names = scores.groupby("name")["score"].mean().sort_values(ascending=False).head(NAMED_HEADS).index
    text = f"Attribution names the heads {', '.join(map(escape, names))} first"
    pooled = agreement[(agreement["name"] == "pooled") & (agreement["method"] == "method_a")]["spearman"]
    if len(pooled):
        text += f"; its Spearman correlation with exact patching is {number(pooled.mean())}"
    return f"{text}."


def say_claims(counts: Iterable[tuple[str, int, int]]) -> str:
    """Say how many claims of each chapter met their criterion.

    Args:
        counts: title, claims tested and claims that failed of each chapter.
    """
    parts = [f"{title} {tested - failed} of {tested}" for title, tested, failed in counts]
    return f"Claims that met their criterion: {', '.join(parts)}."

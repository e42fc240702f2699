"""What was found, in a few plain sentences at the head of the summary: the headline first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from vlmdiff.summary.causal import Headline, Judged, judge_sets, set_results
from vlmdiff.summary.criteria import Comparison
from vlmdiff.summary.markdown import change, escape, p_value, percent, with_interval
from vlmdiff.summary.sections import UNKNOWN

ROTATIONS = ("percentile", "calibrated")


def mean_of(values: pd.Series) -> str:
    """Write a count, or its mean over seeds."""
    return f"{values.mean():,.0f}"


def drawn(whole: Comparison) -> float:
    """Return what random pools do to the target on average."""
    return sum(whole.draws) / len(whole.draws) if whole.draws else float("nan")


def among_pools(whole: Comparison) -> str:
    """Write the p of a set among its random pools, and whether they could have given a smaller one."""
    least = whole.draws and whole.p_random == whole.least_p
    return p_value(whole.p_random) + (f", the least that {len(whole.draws)} pools can give" if least else "")


def say_ablation(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> str:
    """Say what removing the set that the config fixed does, beside random pools and on general questions."""
    result = set_results(ablation, headline, data)[0]
    measure = headline.measure
    whole, failed = result.over_seeds(measure), result.failures(measure)
    name = f"the {headline.size} best features of {escape(headline.concept)}"
    if whole is None:
        return f"**Headline**: there is none, for {'; '.join(failed)} ({name})."
    what = "mean logit margin" if measure == "margin" else "accuracy, in points,"
    random = drawn(whole)
    text = (
        f"**Headline**: removing {name} changes the {what} on {escape(data[0])} by "
        f"{with_interval(whole.target, measure)} and on {escape(data[1])} by "
        f"{with_interval(whole.control, measure)}; removing as many of random pools, chosen in the same way, "
        f"changes the first by "
        f"{change(random, measure)} ({among_pools(whole)})"
    )
    rows = ablation[
        ablation["group"].eq("all") & ablation["dataset"].eq(data[0]) & ablation["concept"].eq(result.concept)
        & ablation["scope"].eq(result.scope) & ablation["size"].eq(result.size)
    ]  # fmt: skip
    held = rows.groupby(rows["arm"].eq("random"))["removed"].mean().reindex([False, True])
    text += (
        f"; they hold {percent(held[False])} of the residual stream's variance on these questions, those of "
        f"the pools {percent(held[True])}"
    )
    if not whole.testable:
        return f"{text}: too few pools to tell."
    if not failed:
        spared = sum(whole.random_control) / len(whole.random_control)
        return (
            f"{text}. The model depends on them for this concept more than on those of the pools; general "
            f"questions are spared, as they are by the pools ({change(spared, measure)})."
        )
    return f"{text}: **no specific effect is shown** ({'; '.join(failed)})."


def say_others(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> str:
    """Say what removing as many features of the other ablated concepts does; nothing if there are none."""
    judged = judge_sets(set_results(ablation, headline, data), headline.measure)[1:]
    return " ".join(
        say_other(one, headline.measure)
        for one in judged
        if one.whole and (one.result.scope, one.result.size) == (headline.scope, headline.size)
    )


def say_other(judged: Judged, measure: str) -> str:
    """Say what removing one set does, with what is claimed of it as one of several."""
    whole = judged.whole
    random = drawn(whole)
    if judged.too_few:
        answer = f"not testable ({judged.untestable})"
    else:
        answer = f"not specific ({'; '.join(judged.failed)})" if judged.failed else "specific"
    return (
        f"Removing the {judged.result.size} best features of {escape(judged.result.concept)} changes them by "
        f"{with_interval(whole.target, measure)} and {with_interval(whole.control, measure)}, random pools "
        f"the first by {change(random, measure)} ({p_value(whole.p_random)} by itself): {answer}."
    )


def say_features(thresholds: pd.DataFrame, rule: str) -> str:
    """Say how many features turned in the VLM, in a second null, and where nothing was tuned."""
    rows = thresholds[(thresholds["rule"] == rule) & (thresholds["layer"] < 0)]
    if rows.empty:
        return ""
    text = (
        f"Of {mean_of(rows['visual'])} features that fire on images {mean_of(rows['adapted'])} are adapted "
        f"by the {rule} rule (means over seeds)"
    )
    if rule not in ROTATIONS:
        return f"{text}, which asks for no rotation."
    beside = [
        f"{name} {percent(known[share].mean())} of them"
        for share, name in (
            ("check_false_positive_rate", "more text of the same kind would make adapted"),
            ("untuned_rate", "image tokens before a model that was never tuned"),
        )
        if len(known := rows.dropna(subset=[share]))
    ]
    return f"{text}; {', '.join(beside)}." if beside else f"{text}; no second null tells how many by chance."


def say_final(funnel: pd.DataFrame, untuned: pd.DataFrame, quality: pd.DataFrame) -> str:
    """Say how many features pass every filter, how many are false finds, how many tell the concept."""
    final, false = (one[(one["layer"] < 0) & (one["stage"] == "final")] for one in (funnel, untuned))
    parts = []
    for concept, part in final.groupby("concept", sort=False):
        text = f"{escape(concept)} {mean_of(part['features'])}"
        if (same := false[false["concept"] == concept]).size:
            text += f" (never tuned: {mean_of(same['features'])})"
        parts.append(text)
    if not parts:
        return ""
    text = f"Features that pass every filter: {', '.join(parts)}"
    full = quality[
        (quality["layer"] < 0) & quality["definition"].eq("best match") & quality["rule"].eq("full")
    ]
    truths = [
        f"{percent(part['precision'].mean())} of those for {escape(concept)}"
        for concept, part in full.groupby("concept", sort=False)
    ]
    if truths:
        text += f"; by the scene graphs {', '.join(truths)} tell a place, relation or truth best"
    return f"{text}."


def say_omitted(omitted: Sequence[str]) -> str:
    """Say which stages the configuration leaves out; nothing if it leaves out none."""
    named = ", ".join(f"`{key}` ({UNKNOWN[key]})" for key in omitted)
    return f"Left out by the configuration: {named}." if named else ""


def say_claims(counts: Iterable[tuple[int, int, int]]) -> str:
    """Say how many claims met their criterion.

    Args:
        counts: claims tested, claims that failed, and what cannot be tested, of each chapter.
    """
    tested, failed, unknown = (sum(column) for column in zip(*counts))
    more = f"; {unknown} more cannot be tested" if unknown else ""
    return (
        f"{tested - failed} of {tested} claims below met criteria that were fixed beforehand, {failed} failed"
        f"{more}: see the end."
    )

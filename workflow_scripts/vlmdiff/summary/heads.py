"""The section on heads: which write the features, how far that can be trusted, what ablating them does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import pandas as pd

from vlmdiff.summary.causal import Intervention, interventions, not_found, verdict
from vlmdiff.summary.criteria import AGREEMENT, LEVEL, Comparison
from vlmdiff.summary.markdown import escape, number, spread, table, with_interval
from vlmdiff.summary.sections import Section


def placed(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of each concept and seed, with what to call them."""
    for (concept, seed), part in rows.groupby(["concept", "seed"], sort=False):
        yield f"{escape(concept)}, seed {seed}", part


def claim_agreement(section: Section, place: str, pooled: pd.Series) -> None:
    """Claim the agreement of the score that ranks, if there are features enough for its interval.

    Args:
        section: the chapter.
        place: concept and seed of the dictionaries.
        pooled: row of HEAD_AGREEMENT of the method `score`, over all features.
    """
    value, low, high = (float(pooled[name]) for name in ("spearman", "spearman_low", "spearman_high"))
    text = (
        f"{place}: the score that ranks heads (mean of A and B) against exact patching, pooled over "
        f"{pooled['features']} features and {pooled['heads']} pairs of feature and head: Spearman "
        f"{number(value)}"
    )
    if math.isnan(low):
        section.cannot(f"{text}; too few features for an interval over them.")
        return
    text += f" [{number(low)}, {number(high)}]"
    if value < AGREEMENT:
        verdict = f", below {AGREEMENT}: **weak**"
    elif not low > 0:
        verdict = ", and its interval reaches 0: **weak**"
    else:
        section.claim(True, f"{text}: they agree.", "")
        return
    section.claim(False, f"{text}{verdict}.", f"{text}{verdict}.")


def describe_agreement(section: Section, agreement: pd.DataFrame) -> None:
    """Give Spearman's correlation of attribution with exact patching, per feature and pooled."""
    for place, rows in placed(agreement):
        wide = rows.pivot_table(index="name", columns="method", values="spearman", sort=False, dropna=False)
        cells = [
            [escape(name), *(number(value) for value in values)]
            for name, values in zip(wide.index, wide.to_numpy())
        ]
        header = ("feature", *(column.replace("_", " ") for column in wide.columns))
        section.say("", f"Spearman with exact patching over heads, {place}:", "", *table(header, cells))
        for _, pooled in rows[(rows["name"] == "pooled") & (rows["method"] == "score")].iterrows():
            claim_agreement(section, place, pooled)


def judged(comparison: Comparison) -> str:
    """Say whether one intervention is specific, or that its draws cannot tell."""
    if not comparison.testable:
        return f"not testable: {len(comparison.draws)} random draws"
    return verdict(comparison.failures())


def claim_sets(
    section: Section, found: Iterable[tuple[str, Intervention]], where: str, title: str, measure: str
) -> None:
    """Add a table with a line per set of one seed, each a claim by one measure; the other is given beside it.

    Args:
        section: the chapter.
        found: sets with their names.
        where: what the sets belong to, for the list of claims that fail.
        title: line above the table.
        measure: margin or accuracy.
    """
    rows = []
    for name, item in found:
        rows.append(set_row(item, name))
        claimed = getattr(item, measure)
        if not claimed.testable:
            section.cannot(f"{where}, {name}: {len(claimed.draws)} random draws reach no p of {LEVEL}.")
            continue
        failed = claimed.failures()
        why = f"{'; '.join(failed)}{not_found(claimed, measure)}"
        section.claim(not failed, "", f"{where}, {name}: not specific by {measure} ({why}).")
    section.say(title, "", *table(SET_HEADER, rows))


SET_HEADER = (
    "ablated", "target", "control", "random, target", "margin: target", "margin: control",
    "margin: random, target", "specific by accuracy", "specific by margin",
)  # fmt: skip


def set_row(item: Intervention, name: str) -> list[str]:
    """Return one line of the table of sets."""
    accuracy, margin = item.accuracy, item.margin
    return [
        name, with_interval(accuracy.target, "accuracy"), with_interval(accuracy.control, "accuracy"),
        spread(accuracy.random, "accuracy"), with_interval(margin.target, "margin"),
        with_interval(margin.control, "margin"), spread(margin.random, "margin"),
        judged(accuracy), judged(margin),
    ]  # fmt: skip


def describe_heads(
    scores: pd.DataFrame,
    agreement: pd.DataFrame,
    ablation: pd.DataFrame,
    data: tuple[str, str],
    shown: int = 5,
) -> Section:
    """Name the top heads, say how far attribution can be trusted and what ablating them does.

    Args:
        scores, agreement, ablation: HEAD_SCORES, HEAD_AGREEMENT, HEAD_ABLATION with a column `seed`.
        data: names of target and control test data.
        shown: how many heads to name.
    """
    section = Section("Heads")
    if scores.empty:
        text = "No feature was traced to heads."
        section.claim(False, text, text)
        return section
    for place, rows in placed(scores):
        best = rows.sort_values("rank").head(shown)
        names = ", ".join(
            f"{escape(row.name)} ({number(row.score)})" for row in best.itertuples(index=False, name="Head")
        )
        section.say(f"Strongest heads by attribution (share), {place}: {names}.")
    describe_agreement(section, agreement)
    whole = ablation[ablation["group"] == "all"]
    for place, rows in placed(whole):
        found = [(item.members, item) for item in interventions(rows, "heads", data)]
        section.say("")
        claim_sets(section, found, f"Heads, {place}", f"Heads ablated together, {place}:", "margin")
    return section

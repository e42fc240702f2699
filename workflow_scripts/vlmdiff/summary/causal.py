"""The sections on interventions and heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from vlmdiff.summary.criteria import AGREEMENT, Comparison, compare
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import escape, interval, number, spread, table

MEASURES = ("accuracy", "margin")
HEADER = ("ablated", "measure", "target", "control", "random: target", "random: control", "verdict")
CRITERION = (
    "An effect is called *specific* if the target's 95 % interval lies below 0, at most 5 % of matched "
    "random draws (the selected one counted in) hurt the target as much, the control changes by at most a "
    "third of the target's change, and the two intervals do not overlap. Accuracy in percentage points, "
    "margin in logits; brackets hold paired bootstrap 95 % intervals, random draws are given as mean (range)."
)


def interventions(table_: pd.DataFrame, label: str) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yield a name, the rows of one selected intervention and those of its random draws."""
    for size, rows in table_.groupby("size"):
        random = rows[rows["arm"] == "random"]
        for _, chosen in rows[rows["arm"] != "random"].groupby("draw"):
            members = escape(chosen[label].iloc[0].replace(";", ", "))
            yield (members if size == 1 else f"top {size}: {members}"), chosen, random


def verdict(comparison: Comparison) -> str:
    """Say specific, or not and why."""
    failed = comparison.failures()
    return "specific" if not failed else f"not specific: {'; '.join(failed)}"


def judge(
    section: Section, rows: pd.DataFrame, label: str, data: tuple[str, str], where: str, source: str
) -> None:
    """Add a table of all interventions and a claim for each that is more than a single feature.

    Args:
        section: the chapter.
        rows: EFFECT columns with arm, size, draw and `label`, group `all`.
        label: column with the members.
        data: names of target and control data.
        where: what was done, for the claims.
        source: file of the table.
    """
    cells = []
    for name, chosen, random in interventions(rows, label):
        found = {measure: compare(chosen, random, *data, measure) for measure in MEASURES}
        cells += [line(name, measure, item) for measure, item in found.items() if item is not None]
        if found["accuracy"] and found["margin"] and (label == "heads" or chosen["size"].iloc[0] > 1):
            claim_specific(
                section, found["accuracy"], found["margin"], f"{where}, {name.partition(':')[0]}", source
            )
    section.say(f"{where} (from `{source}`):", "", *table(HEADER, cells))


def line(name: str, measure: str, found: Comparison) -> list[str]:
    """Return one line of the table."""
    effects = [interval(found.target, measure), interval(found.control, measure)]
    draws = [spread(found.random, measure), spread(found.random_control, measure)]
    return [name, measure, *effects, *draws, verdict(found)]


def claim_specific(section: Section, found: Comparison, margin: Comparison, name: str, source: str) -> None:
    """State the effect on accuracy in words, and whether the margin says the same."""
    text = (
        f"{name}: target {interval(found.target, 'accuracy')} points, control "
        f"{interval(found.control, 'accuracy')}, {len(found.random)} matched random draws "
        f"{spread(found.random, 'accuracy')}"
    )
    failed = found.failures()
    also = f"by margin {'not ' if margin.failures() else ''}specific"
    otherwise = f"{text}: **not specific**, {'; '.join(failed)}; {also} ({source})."
    section.claim(not failed, f"{text}: **specific**; {also}.", otherwise)


def describe_ablation(
    ablation: pd.DataFrame, concepts: Iterable[str], data: tuple[str, str], source: str
) -> Section:
    """Say for every set whether ablating it hurts the concept, and only it.

    Args:
        ablation: ABLATION of all concepts, one seed after another in column `seed`.
        concepts: the concepts that were to be ablated.
        data: names of target and control test data.
        source: file of the table.
    """
    section = Section("Causal effect of the features")
    section.say(CRITERION)
    whole = ablation[ablation["group"] == "all"]
    for concept in concepts:
        mine = whole[whole["concept"] == concept]
        if mine.empty:
            text = f"Concept {escape(concept)}: no final feature, so nothing was ablated ({source})."
            section.claim(False, "", text)
        for (seed, scope), rows in mine.groupby(["seed", "scope"]):
            where = f"Concept {escape(concept)}, seed {seed}, {scope.replace('_', ' ')}"
            judge(section, rows, "features", data, where, source)
    return section


def describe_agreement(section: Section, agreement: pd.DataFrame, source: str) -> None:
    """Give Spearman's correlation of attribution with exact patching, per feature and pooled."""
    for seed, rows in agreement.groupby("seed"):
        wide = rows.pivot_table(index="name", columns="method", values="spearman", sort=False, dropna=False)
        cells = [
            [escape(name), *(number(value) for value in values)]
            for name, values in zip(wide.index, wide.to_numpy())
        ]
        section.say(f"Spearman with exact patching over heads, seed {seed} (from `{source}`):")
        section.say(*table(("feature", *(column.replace("_", " ") for column in wide.columns)), cells))
        pooled = rows[(rows["name"] == "pooled") & (rows["method"] == "method_a")]
        for value in pooled["spearman"]:
            text = f"Seed {seed}: attribution (A) against exact patching, pooled: Spearman {number(value)}"
            section.claim(
                value >= AGREEMENT, f"{text}: they agree.", f"{text}, below {AGREEMENT}: **weak** ({source})."
            )


def describe_heads(
    scores: pd.DataFrame,
    agreement: pd.DataFrame,
    ablation: pd.DataFrame,
    data: tuple[str, str],
    sources: tuple[str, str, str],
    shown: int = 5,
) -> Section:
    """Name the top heads, say how far attribution can be trusted and what ablating them does.

    Args:
        scores, agreement, ablation: HEAD_SCORES, HEAD_AGREEMENT, HEAD_ABLATION with a column `seed`.
        data: names of target and control test data.
        sources: files of the three tables.
        shown: how many heads to name.
    """
    section = Section("Heads")
    if scores.empty:
        section.claim(False, "", f"No feature was traced to heads ({sources[0]}).")
        return section
    for seed, rows in scores.groupby("seed"):
        best = rows.sort_values("rank").head(shown)
        names = ", ".join(
            f"{escape(row.name)} ({number(row.score)})" for row in best.itertuples(index=False, name="Head")
        )
        section.say(f"Seed {seed}: strongest heads by attribution: {names} (from `{sources[0]}`).")
    describe_agreement(section, agreement, sources[1])
    whole = ablation[ablation["group"] == "all"]
    for seed, rows in whole.groupby("seed"):
        judge(section, rows, "heads", data, f"Heads, seed {seed}", sources[2])
    return section

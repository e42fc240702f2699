"""The section on heads: which write the features, how far that can be trusted, what ablating them does."""

from __future__ import annotations

import math

import pandas as pd

from vlmdiff.summary.causal import claim_sets, interventions
from vlmdiff.summary.criteria import AGREEMENT
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import escape, number, table


def claim_agreement(section: Section, seed: int, pooled: pd.Series) -> None:
    """Claim the agreement of the score that ranks, if there are features enough for its interval.

    Args:
        section: the chapter.
        seed: seed of the dictionaries.
        pooled: row of HEAD_AGREEMENT of the method `score`, over all features.
    """
    value, low, high = (float(pooled[name]) for name in ("spearman", "spearman_low", "spearman_high"))
    text = (
        f"Seed {seed}: the score that ranks heads (mean of A and B) against exact patching, pooled over "
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
    for seed, rows in agreement.groupby("seed"):
        wide = rows.pivot_table(index="name", columns="method", values="spearman", sort=False, dropna=False)
        cells = [
            [escape(name), *(number(value) for value in values)]
            for name, values in zip(wide.index, wide.to_numpy())
        ]
        header = ("feature", *(column.replace("_", " ") for column in wide.columns))
        section.say(f"Spearman with exact patching over heads, seed {seed}:", "", *table(header, cells))
        for _, pooled in rows[(rows["name"] == "pooled") & (rows["method"] == "score")].iterrows():
            claim_agreement(section, seed, pooled)


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
    for seed, rows in scores.groupby("seed"):
        best = rows.sort_values("rank").head(shown)
        names = ", ".join(
            f"{escape(row.name)} ({number(row.score)})" for row in best.itertuples(index=False, name="Head")
        )
        section.say(f"Strongest heads by attribution (share), seed {seed}: {names}.")
    describe_agreement(section, agreement)
    whole = ablation[ablation["group"] == "all"]
    for seed, rows in whole.groupby("seed"):
        found = [(item.members, item) for item in interventions(rows, "heads", data)]
        section.say("")
        claim_sets(section, found, f"Heads, seed {seed}", f"Heads ablated together, seed {seed}:", "margin")
    return section

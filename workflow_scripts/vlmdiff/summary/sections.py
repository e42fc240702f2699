"""The sections on dictionaries, adapted features and concepts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from vlmdiff.summary.criteria import NULL_SHARE
from vlmdiff.summary.text import escape, number, percent, table

STAGES = ("all", "visual", "adapted", "contrast", "adapted_and_contrast", "final")


@dataclass
class Section:
    """A chapter of the summary: its lines, claims that did not hold in short, what cannot be tested."""

    title: str
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    claims: int = 0
    untestable: list[str] = field(default_factory=list)

    def cannot(self, text: str) -> None:
        """Add what cannot be tested: neither a claim that holds nor one that fails."""
        self.untestable.append(text)

    def say(self, *lines: str) -> None:
        """Add a paragraph."""
        self.lines += [*lines, ""]

    def claim(self, holds: bool, text: str, failure: str) -> None:
        """Add a claim as a sentence.

        Args:
            holds: whether the criterion is met.
            text: what was found, with the verdict; empty if a table says it.
            failure: the same in short, for the list of what did not hold.
        """
        self.claims += 1
        if text:
            self.lines.append(f"- {text}")
        if not holds:
            self.failed.append(failure)


def describe_dictionaries(metrics: pd.DataFrame, warm: str) -> Section:
    """Give FVU, L0 and dead features, and whether a warm start beats a random one.

    Args:
        metrics: DICTIONARY_METRICS.
        warm: the dictionary that was fine-tuned from the base.
    """
    section = Section("Dictionaries")
    final = metrics[(metrics["snapshot"] == 100) & (metrics["n_tokens"] > 0)]
    if final.empty:
        text = "No dictionary was evaluated."
        section.claim(False, text, text)
        return section
    keys = ["dictionary", "model", "dataset", "tokens"]
    grouped = final[final["tokens"] != "all"].groupby(keys, sort=False)
    rows = [
        [
            *map(escape, key), f"{number(part['fvu'].mean())} ({number(part['fvu'].min())} to "
            f"{number(part['fvu'].max())})", number(part["l0"].mean()), f"{part['dead'].mean():,.0f}",
        ]
        for key, part in grouped
    ]  # fmt: skip
    header = ("dictionary", "model", "data", "tokens", "FVU", "L0", "dead a layer")
    section.say("Means over layers and seeds (range):", "", *table(header, rows))
    compare_starts(section, final, warm)
    return section


def compare_starts(section: Section, final: pd.DataFrame, warm: str) -> None:
    """Compare the warm start with dictionaries without one (no cosine with it) on the same text tokens."""
    rows = final[final["tokens"] == "text"]
    mine = rows[rows["dictionary"] == warm]
    keys = ["seed", "layer", "model", "dataset"]
    for name, other in rows[rows["cos_initial"].isna()].groupby("dictionary"):
        both = mine.merge(other, on=keys, suffixes=("", "_other"))
        if len(both):
            wins = int((both["fvu"] < both["fvu_other"]).sum())
            text = (
                f"On text tokens {escape(warm)} (warm start) explains more variance than {escape(name)} "
                f"(no warm start) in {wins} of {len(both)} layers and seeds"
            )
            holds = wins > len(both) / 2
            section.claim(
                holds,
                f"{text}{'' if holds else ': **no advantage**'}.",
                f"{escape(warm)} has **no advantage** over {escape(name)} on text tokens.",
            )


def describe_adapted(thresholds: pd.DataFrame, rule: str) -> Section:
    """Give what both rules select and what they would select in the null.

    Args:
        thresholds: THRESHOLDS of all seeds.
        rule: the rule of the config.
    """
    section = Section("Adapted features")
    rows = []
    for row in thresholds.itertuples(index=False):
        holds = row.adapted > 0 and row.null_adapted <= NULL_SHARE * row.adapted
        failure = (
            f"Seed {row.seed}, {row.rule} rule: {row.adapted} adapted features, {row.null_adapted} in the "
            "null: multimodal and null rotation are **not separated**."
        )
        section.claim(holds, "", failure)
        rows.append(
            [row.seed, row.rule, number(row.tau), row.features, row.visual, row.adapted, row.null_adapted,
             percent(row.null_false_positive_rate), "yes" if holds else "**not separated**"]
        )  # fmt: skip
    header = (
        "seed", "rule", "tau", "features", "visual", "adapted", "adapted in the null", "null's rate",
        "more than drift",
    )  # fmt: skip
    section.say(f"Later stages use the {rule} rule.", "", *table(header, rows))
    return section


def describe_concepts(funnel: pd.DataFrame) -> Section:
    """Give the funnel of every concept; that features are left is the claim.

    Args:
        funnel: FUNNEL of all concepts and seeds.
    """
    section = Section("Concepts")
    totals = funnel[funnel["layer"] < 0]
    rows = []
    for (concept, seed), part in totals.groupby(["concept", "seed"], sort=False):
        counts = part.set_index("stage")["features"].reindex(STAGES).fillna(0).astype(int)
        rows.append([escape(concept), seed, *counts])
        failure = (
            f"{escape(concept)}, seed {seed}: no feature passes every filter: **nothing to intervene on**."
        )
        section.claim(counts["final"] > 0, "", failure)
    header = ("concept", "seed", *(stage.replace("_", " ") for stage in STAGES))
    section.say("Features left by each filter:", "", *table(header, rows))
    return section

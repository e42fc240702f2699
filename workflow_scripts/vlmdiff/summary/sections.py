"""The sections on dictionaries, adapted features and concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd

from vlmdiff.summary.markdown import escape, number, percent, table

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


# What is not known without a stage, by the key of its section.
UNKNOWN = MappingProxyType(
    {
        "evaluation": "dictionaries were not scored",
        "lexical": "no feature was tried under neutral prompts",
        "ablation": "whether answers depend on the features was not tested",
        "heads": "features were not traced to heads",
        "steering": "nothing was steered",
    }
)


def omitted_line(key: str) -> str:
    """Say that the configuration leaves a stage out, and what is not known without it."""
    return f"Left out (`{key}: none`): {UNKNOWN[key]}."


def omitted_section(title: str, key: str) -> Section:
    """Return the section of a stage that is left out."""
    section = Section(title)
    section.say(omitted_line(key))
    return section


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
    """Give what each rule selects, also of the nulls, over all layers and in each.

    Nothing is claimed here: on the null that set the calibrated threshold the rate holds by construction.
    The claim stands beside the second null (`vlmdiff.summary.confidence.describe_second_null`).

    Args:
        thresholds: THRESHOLDS of all seeds.
        rule: the rule of the config.
    """
    section = Section("Adapted features")
    rates = ("null's rate", "second null's rate", "rate when never tuned")
    counted = ("visual (not calibrated)", "adapted (not calibrated)", *rates)
    whole = thresholds[thresholds["layer"] < 0]
    rows = [
        [row.seed, row.rule, number(row.tau), row.features, *selected(row)]
        for row in whole.itertuples(index=False)
    ]
    section.say(
        f"Later stages use the {rule} rule. *Not calibrated* are features that the null's text never fired: "
        "they did not turn in the null, so nothing says how far they would have turned without images. Rates "
        "of the text nulls count calibrated features alone.",
        "",
        *table(("seed", "rule", "tau", "features", *counted), rows),
    )
    section.say(*say_textual(whole[whole["rule"] == rule]))
    layers = thresholds[(thresholds["layer"] >= 0) & (thresholds["rule"] == rule)]
    if layers["layer"].nunique() > 1:
        means = layers.drop(columns="rule").groupby("layer", as_index=False).mean().assign(rule="")
        lines = [[int(row.layer), *selected(row)] for row in means.itertuples(index=False)]
        section.say(
            f"By layer, {rule} rule, means over the seeds that have a number (`tau` is one for all layers, "
            "so no rate of a layer holds by construction):",
            "",
            *table(("layer", *counted), lines),
        )
    return section


def say_textual(rows: pd.DataFrame) -> list[str]:
    """Say how many adapted features belonged to plain text before tuning; nothing where that is not known.

    Args:
        rows: THRESHOLDS of the rule in use, over all layers, a row a seed.
    """
    known = rows[rows["visual_textual"].notna() & (rows["adapted"] > 0)]
    if known.empty:
        return []
    parts = []
    for row in known.itertuples(index=False):
        of_adapted, of_visual = row.adapted_textual / row.adapted, row.visual_textual / row.visual
        parts.append(
            f"{row.adapted_textual:,.0f} of {row.adapted:,} adapted ones ({percent(of_adapted)}) and "
            f"{row.visual_textual:,.0f} of {row.visual:,} visual ones ({percent(of_visual)}), seed {row.seed}"
        )
    return [
        f"Features that had more energy on plain text than on questions before tuning: {'; '.join(parts)}."
    ]


def selected(row: Any) -> list[str]:
    """Return what a row of THRESHOLDS says of visual and adapted features and of the nulls."""
    by_construction = " by construction" if row.rule == "calibrated" else ""
    return [
        f"{row.visual:,.0f} ({row.visual_uncalibrated:,.0f})",
        f"{row.adapted:,.0f} ({row.adapted_uncalibrated:,.0f})",
        f"{percent(row.null_false_positive_rate)}{by_construction}",
        percent(row.check_false_positive_rate),
        percent(row.untuned_rate),
    ]


def describe_concepts(funnel: pd.DataFrame, unfiltered: Sequence[str] = ()) -> Section:
    """Give the funnel of every concept; that features are left is the claim.

    Args:
        funnel: FUNNEL of all concepts and seeds.
        unfiltered: concepts that do without the lexical filter.
    """
    section = Section("Concepts")
    totals = funnel[funnel["layer"] < 0]
    rows, apart = [], []
    for (concept, seed), part in totals.groupby(["concept", "seed"], sort=False):
        counts = part.set_index("stage").reindex(STAGES).fillna(0)
        left, pale = counts["features"].astype(int), counts["uncalibrated"].astype(int)
        cells = [f"{n} ({m})" if m else str(n) for n, m in zip(left, pale, strict=True)]
        rows.append([escape(concept), seed, *cells])
        if left["final"]:
            share = percent(pale["final"] / left["final"])
            apart.append(f"{escape(concept)}, seed {seed}: {pale['final']} of {left['final']} ({share})")
        failure = (
            f"{escape(concept)}, seed {seed}: no feature passes every filter: **nothing to intervene on**."
        )
        section.claim(left["final"] > 0, "", failure)
    header = ("concept", "seed", *(stage.replace("_", " ") for stage in STAGES))
    section.say("Features left by each filter (of them not calibrated):", "", *table(header, rows))
    if unfiltered:
        named = ", ".join(map(escape, unfiltered))
        section.say(f"Without the lexical filter (`lexical: false`): {named}.")
    if apart:
        section.say(f"Final features whose rotation has no reference: {'; '.join(apart)}.")
    return section

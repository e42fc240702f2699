"""The section on interventions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from vlmdiff.summary.criteria import Comparison, compare
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import change, escape, interval, spread, table

CRITERION = (
    "An effect is *specific* if the target's 95 % interval lies below 0, at most 5 % of matched random draws "
    "(the selected one counted in) hurt the target as much, the control changes by at most a third of the "
    "target's change, and the two intervals do not overlap. Accuracy in percentage points, margin in logits, "
    "paired bootstrap 95 % intervals; random draws as mean (range)."
)
SET_HEADER = (
    "ablated", "target", "control", "random, target", "margin: target", "margin: control",
    "margin: random, target", "specific by accuracy", "specific by margin",
)  # fmt: skip


@dataclass(frozen=True)
class Intervention:
    """One selected intervention beside its random draws."""

    size: int
    members: str
    accuracy: Comparison
    margin: Comparison

    @property
    def name(self) -> str:
        """Name it by its only member or by its size."""
        return self.members if self.size == 1 else f"top {self.size}"


def interventions(rows: pd.DataFrame, label: str, data: tuple[str, str]) -> list[Intervention]:
    """Return the selected interventions that have target and control, by size and rank.

    Args:
        rows: EFFECT columns of one seed, concept and scope, with arm, size, draw and `label`, group `all`.
        label: column with the members.
        data: names of target and control data.
    """
    found = []
    for size, same in rows.groupby("size"):
        random = same[same["arm"] == "random"]
        for _, chosen in same[same["arm"] != "random"].groupby("draw"):
            accuracy, margin = (compare(chosen, random, *data, name) for name in ("accuracy", "margin"))
            if accuracy and margin:
                members = escape(chosen[label].iloc[0].replace(";", ", "))
                found.append(Intervention(int(size), members, accuracy, margin))
    return found


def verdict(comparison: Comparison) -> str:
    """Say yes, or no and why."""
    failed = comparison.failures()
    return f"**no**: {'; '.join(failed)}" if failed else "**yes**"


def set_row(item: Intervention, name: str) -> list[str]:
    """Return one line of the table of sets."""
    accuracy, margin = item.accuracy, item.margin
    return [
        name, interval(accuracy.target, "accuracy"), interval(accuracy.control, "accuracy"),
        spread(accuracy.random, "accuracy"), interval(margin.target, "margin"),
        interval(margin.control, "margin"), spread(margin.random, "margin"),
        verdict(accuracy), verdict(margin),
    ]  # fmt: skip


def claim_sets(section: Section, found: Iterable[tuple[str, Intervention]], where: str, title: str) -> None:
    """Add a table with a line per set, each a claim on accuracy; the margin is given beside it.

    Args:
        section: the chapter.
        found: sets with their names.
        where: what the sets belong to, for the list of claims that fail.
        title: line above the table.
    """
    rows = []
    for name, item in found:
        rows.append(set_row(item, name))
        failed = item.accuracy.failures()
        also = "specific by margin" if not item.margin.failures() else "nor by margin"
        section.claim(not failed, "", f"{where}, {name}: not specific ({'; '.join(failed)}); {also}.")
    section.say(title, "", *table(SET_HEADER, rows))


def single_table(found: dict[str, list[Intervention]]) -> list[str]:
    """Return a table with a line per feature and, for each scope, target and control in both measures.

    Args:
        found: single-feature interventions of each scope.
    """
    header, rows = ["feature"], {}
    for scope, items in found.items():
        header += [f"{scope}: target", "control", "margin: target", "control"]
        for item in items:
            cells = rows.setdefault(item.members, [item.members])
            for measure, compared in (("accuracy", item.accuracy), ("margin", item.margin)):
                cells += [change(effect.value, measure) for effect in (compared.target, compared.control)]
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows.values()])


def describe_ablation(ablation: pd.DataFrame, concepts: Iterable[str], data: tuple[str, str]) -> Section:
    """Say for every set whether ablating it hurts the concept, and only it.

    Args:
        ablation: ABLATION of all concepts, one seed after another in column `seed`.
        concepts: the concepts that were to be ablated.
        data: names of target and control test data.
    """
    section = Section("Causal effect of the features")
    section.say(CRITERION)
    whole = ablation[ablation["group"] == "all"]
    for concept in concepts:
        mine = whole[whole["concept"] == concept]
        if mine.empty:
            text = f"{escape(concept)}: no final feature, so nothing was ablated."
            section.claim(False, text, text)
        for seed, rows in mine.groupby("seed"):
            where = f"{escape(concept)}, seed {seed}"
            scopes = {
                str(scope).replace("_", " "): interventions(part, "features", data)
                for scope, part in rows.groupby("scope")
            }
            sets = [
                (f"{item.name}, {scope}", item)
                for scope, items in scopes.items()
                for item in items
                if item.size > 1
            ]
            claim_sets(section, sets, where, f"Sets of the best features, {where}:")
            singles = {scope: [item for item in items if item.size == 1] for scope, items in scopes.items()}
            section.say(f"Single features, best first, {where}:", "", *single_table(singles))
    return section

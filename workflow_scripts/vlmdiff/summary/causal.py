"""The section on interventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from vlmdiff.summary.criteria import (
    LEVEL,
    Comparison,
    combined,
    compare,
    corrected,
)
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import change, escape, interval, number, spread, table

CRITERION = (
    "An effect is *specific* if the target's 95 % interval lies below 0, at most 5 % of random draws that "
    "were chosen alike (the selected one counted in) hurt the target as much, and an equivalence test shows "
    "that the control changes by less than a third of the target's fall. Accuracy in percentage points, "
    "margin in logits; intervals by paired bootstrap of texts or images where these repeat; random draws "
    "as mean (range)."
)
MEASURES = ("margin", "accuracy")


@dataclass(frozen=True)
class Headline:
    """The one result that is claimed, as the configuration fixes it, and what else is made.

    Attributes:
        concept, scope, size, measure: which set of features, and what is claimed about.
        concepts, scopes, sizes: everything that is ablated, the headline among it.
        seeds: number of seeds of dictionaries.
    """

    concept: str
    scope: str
    size: int
    measure: str
    concepts: tuple[str, ...]
    scopes: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: int

    def sets(self) -> list[tuple[str, str, int]]:
        """Return (concept, scope, size) of all sets, the headline first."""
        first = (self.concept, self.scope, self.size)
        every = [(c, s, n) for c in self.concepts for s in self.scopes for n in self.sizes if n > 1]
        return [first, *(one for one in every if one != first)]


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


@dataclass(frozen=True)
class SetResult:
    """What ablating the best features of a concept does, over all seeds of dictionaries.

    Attributes:
        concept, scope, size: which features, where, how many.
        by_seed: for each measure and seed, target and control beside the random pools.
        missing: seeds in which there were too few features.
    """

    concept: str
    scope: str
    size: int
    by_seed: Mapping[str, Mapping[int, Comparison]]
    missing: tuple[int, ...] = field(default=())

    @property
    def name(self) -> str:
        """Name it in a table."""
        return f"{escape(self.concept)}, top {self.size}, {self.scope.replace('_', ' ')}"

    def over_seeds(self, measure: str) -> Comparison | None:
        """Return the comparison of means over seeds; None if no seed has one."""
        return combined(self.by_seed[measure]) if self.by_seed[measure] else None

    def failures(self, measure: str) -> list[str]:
        """Return in words what keeps the effect from being specific; a seed without the set is a failure."""
        whole = self.over_seeds(measure)
        failed = whole.failures() if whole else []
        if self.missing:
            seeds = ", ".join(map(str, self.missing))
            failed.append(f"too few features in seed {seeds}")
        return failed


def set_results(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> list[SetResult]:
    """Return the results of all sets that were to be made, the headline first.

    Args:
        ablation: ABLATION of all concepts, with a column `seed`.
        headline: what was fixed in the config.
        data: names of target and control test data.
    """
    whole = ablation[ablation["group"] == "all"]
    found = []
    for concept, scope, size in headline.sets():
        rows = whole[whole["concept"].eq(concept) & whole["scope"].eq(scope) & whole["size"].eq(size)]
        by_seed: dict[str, dict[int, Comparison]] = {measure: {} for measure in MEASURES}
        for seed, part in rows.groupby("seed"):
            for item in interventions(part, "features", data):
                by_seed["accuracy"][int(seed)], by_seed["margin"][int(seed)] = item.accuracy, item.margin
        missing = tuple(seed for seed in range(headline.seeds) if seed not in by_seed["margin"])
        found.append(SetResult(concept, scope, size, by_seed, missing))
    return found


def verdict(failed: Sequence[str]) -> str:
    """Say yes, or no and why."""
    return f"**no**: {'; '.join(failed)}" if failed else "**yes**"


def judged(comparison: Comparison) -> str:
    """Say whether one intervention is specific, or that its draws cannot tell."""
    if not comparison.testable:
        return f"not testable: {len(comparison.draws)} random draws"
    return verdict(comparison.failures())


def not_found(comparison: Comparison, measure: str) -> str:
    """Say how large an effect on the target would have been found, beside a verdict of none."""
    if comparison.target.high < 0:
        return ""
    return f"; from {change(comparison.target.detectable, measure)} on it would be found"


def say_set(result: SetResult, measure: str, data: tuple[str, str]) -> str:
    """Say in a sentence what removing a set does, beside its random pools and the control."""
    whole = result.over_seeds(measure)
    what = (
        f"removing the {result.size} best features of {escape(result.concept)} "
        f"({result.scope.replace('_', ' ')})"
    )
    if whole is None:
        return f"{what} was not possible: {'; '.join(result.failures(measure))}"
    unit = "logits" if measure == "margin" else "points"
    target, control = map(escape, data)
    seeds = ", ".join(change(one.target.value, measure) for one in result.by_seed[measure].values())
    return (
        f"{what} changes the {'mean logit margin' if measure == 'margin' else 'accuracy'} on {target} by "
        f"{interval(whole.target, measure)} {unit} (seeds: {seeds}), the best {result.size} of "
        f"{len(whole.draws)} pools of matched random features, ranked alike, by "
        f"{spread(whole.random, measure)} (p = {whole.p_random:.3f}), and that on {control} by "
        f"{interval(whole.control, measure)} (p = {whole.p_spared:.3f} for a third of the target's fall or "
        f"more){not_found(whole, measure)}"
    )


def claim_headline(section: Section, result: SetResult, headline: Headline, data: tuple[str, str]) -> None:
    """Add the one claim that was fixed before the run."""
    whole, failed = result.over_seeds(headline.measure), result.failures(headline.measure)
    text = f"**Headline**, fixed in the config: {say_set(result, headline.measure, data)}"
    if whole is not None and not whole.testable:
        section.lines.append(f"- {text}: not testable by {len(whole.draws)} pools.")
        section.cannot(f"Headline: {len(whole.draws)} random pools can reach no p of {LEVEL}.")
        return
    answer = "specific" if not failed else f"**not specific** ({'; '.join(failed)})"
    section.claim(not failed, f"{text}: {answer}.", f"Headline: {result.name} is {answer}.")


def claim_others(section: Section, results: Sequence[SetResult], measure: str) -> None:
    """Judge all other sets, each p corrected for their number."""
    tested = [(one, one.over_seeds(measure)) for one in results]
    known = [(one, whole) for one, whole in tested if whole is not None and whole.testable]
    adjusted = corrected([whole.p for _, whole in known])
    for (one, whole), p in zip(known, adjusted):
        failed = one.failures(measure)
        if not failed and p > LEVEL:
            failed = [f"not after correction for {len(known)} sets, p = {p:.2f}"]
        why = f"{'; '.join(failed)}{not_found(whole, measure)}"
        section.claim(not failed, "", f"{one.name}: not specific ({why}).")
    for one, whole in tested:
        if whole is None:
            section.claim(False, "", f"{one.name}: {'; '.join(one.failures(measure)) or 'was not ablated'}.")
        elif not whole.testable:
            section.cannot(f"{one.name}: {len(whole.draws)} random pools can reach no p of {LEVEL}.")


def set_table(results: Sequence[SetResult], measure: str) -> list[str]:
    """Return a table with a line a set: means over seeds by the claimed measure, the other beside it."""
    other = next(name for name in MEASURES if name != measure)
    header = (
        "ablated", f"target, {measure}", "seeds", "control", "random pools, target", "p random", "p spared",
        "p corrected", "specific", f"target, {other}", f"control, {other}",
    )  # fmt: skip
    rows = []
    further = [one for one in results[1:] if (whole := one.over_seeds(measure)) and whole.testable]
    adjusted = dict(zip(map(id, further), corrected([one.over_seeds(measure).p for one in further])))
    for number_, one in enumerate(results):
        whole = one.over_seeds(measure)
        name = f"{one.name} (headline)" if number_ == 0 else one.name
        if whole is None:
            rows.append([name, *["n/a"] * 7, verdict(one.failures(measure) or ["was not ablated"]), "", ""])
            continue
        seeds = ", ".join(change(part.target.value, measure) for part in one.by_seed[measure].values())
        p = whole.p if number_ == 0 else adjusted.get(id(one), 1.0)
        failed = one.failures(measure) or ([] if p <= LEVEL else ["not after correction"])
        beside = one.over_seeds(other)
        rows.append([
            name, interval(whole.target, measure), seeds, interval(whole.control, measure),
            spread(whole.random, measure), f"{whole.p_random:.3f}", f"{whole.p_spared:.3f}", f"{p:.3f}",
            verdict(failed) if whole.testable else f"not testable: {len(whole.draws)} pools",
            interval(beside.target, other), interval(beside.control, other),
        ])  # fmt: skip
    return table(header, rows)


def match_table(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> list[str]:
    """Return a table that says how well the random pools match, and how much of the stream each set holds."""
    rows = ablation[
        ablation["group"].eq("all") & ablation["dataset"].eq(data[0]) & ablation["size"].gt(1)
        & ablation["scope"].eq(headline.scope)
    ]  # fmt: skip
    lines = []
    for (concept, size, seed), part in rows.groupby(["concept", "size", "seed"]):
        chosen, random = (part[part["arm"].eq("random") == drawn] for drawn in (False, True))
        cells = [f"{escape(concept)}, top {size}", seed]
        for name in ("rate", "energy", "removed"):
            values = random[name]
            cells += [number(chosen[name].mean()), f"{number(values.mean())} ({number(values.min())} to "
                      f"{number(values.max())})"]  # fmt: skip
        cells += [
            f"{chosen['lost'].iloc[0]} / {chosen['gained'].iloc[0]}",
            number(chosen["mcnemar_p"].iloc[0]),
        ]
        lines.append(cells)
    header = (
        "ablated", "seed", "firing rate", "random", "energy", "random", "variance removed", "random",
        "answers lost / gained", "McNemar's p",
    )  # fmt: skip
    return table(header, lines)


def single_table(found: dict[str, list[Intervention]]) -> list[str]:
    """Return a table with a line per feature and, for each scope, target and control in both measures.

    Args:
        found: single-feature interventions of each scope.
    """
    header, rows = ["feature"], {}
    for scope, items in found.items():
        header += [f"{scope}: target", "control", "margin: target", "control", "p"]
        for item in items:
            cells = rows.setdefault(item.members, [item.members])
            for measure, compared in (("accuracy", item.accuracy), ("margin", item.margin)):
                cells += [change(effect.value, measure) for effect in (compared.target, compared.control)]
            cells.append(f"{item.margin.p_random:.2f}")
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows.values()])


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
        name, interval(accuracy.target, "accuracy"), interval(accuracy.control, "accuracy"),
        spread(accuracy.random, "accuracy"), interval(margin.target, "margin"),
        interval(margin.control, "margin"), spread(margin.random, "margin"),
        judged(accuracy), judged(margin),
    ]  # fmt: skip


def describe_ablation(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> Section:
    """Say whether ablating the set that the config fixed hurts the concept, and only it; then all else.

    Args:
        ablation: ABLATION of all concepts, one seed after another in column `seed`.
        headline: what was fixed in the config.
        data: names of target and control test data.
    """
    section = Section("Causal effect of the features")
    section.say(CRITERION)
    results = set_results(ablation, headline, data)
    claim_headline(section, results[0], headline, data)
    claim_others(section, results[1:], headline.measure)
    section.say(
        "", f"Sets of the best features, means over {headline.seeds} seeds; p of all but the headline "
        "corrected by Holm's method:", "", *set_table(results, headline.measure),
    )  # fmt: skip
    section.say(
        "How well random pools match on the tested questions, and the share of the residual stream's "
        "variance that each set holds:", "", *match_table(ablation, headline, data),
    )  # fmt: skip
    singles = ablation[ablation["group"].eq("all") & ablation["size"].eq(1)]
    for (concept, seed), rows in singles.groupby(["concept", "seed"]):
        scopes = {
            str(scope).replace("_", " "): interventions(part, "features", data)
            for scope, part in rows.groupby("scope")
        }
        section.say(
            f"Single features, best first, {escape(concept)}, seed {seed} (p of the margin beside the best "
            "feature of each random pool, so for all of them at once; no claim):", "", *single_table(scopes),
        )  # fmt: skip
    return section

"""The section on interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from vlmdiff.summary.criteria import (
    LEVEL,
    Comparison,
    against_random,
    combined,
    corrected,
)
from vlmdiff.summary.markdown import change, escape, number, p_value, spread, table, with_interval
from vlmdiff.summary.sections import Section

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
            accuracy, margin = (
                against_random(chosen, random, *data, name) for name in ("accuracy", "margin")
            )
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
    seeds = ", ".join(
        f"{change(one.target.value, measure)} with {p_value(one.p_random)}"
        for one in result.by_seed[measure].values()
    )
    return (
        f"{what} changes the {'mean logit margin' if measure == 'margin' else 'accuracy'} on {target} by "
        f"{with_interval(whole.target, measure)} {unit} (seeds: {seeds}), the best {result.size} of "
        f"{len(whole.draws)} random pools, each of candidates and features that match them, ranked alike, by "
        f"{spread(whole.random, measure)} (Monte-Carlo test, {p_value(whole.p_random)}), and that on "
        f"{control} by {with_interval(whole.control, measure)} (equivalence test, {p_value(whole.p_spared)} "
        f"for a third of the target's fall or more; pools {spread(whole.random_control, measure)})"
        f"{not_found(whole, measure)}"
    )


@dataclass(frozen=True)
class Judged:
    """A set of features with what is said of it.

    Attributes:
        result: its results over seeds.
        whole: target and control beside the random pools, means over seeds; None if no seed has the set.
        p: of the whole claim; of all but the headline corrected for their number.
        failed: in words what keeps the effect from being specific.
        too_few: number of sets, itself one of them, for which its pools are too few to tell anything; 0 if
            they are enough.
    """

    result: SetResult
    whole: Comparison | None
    p: float
    failed: Sequence[str]
    too_few: int = 0

    @classmethod
    def before_correction(cls, result: SetResult, measure: str) -> Judged:
        """Judge a set as if it were the only one."""
        whole = result.over_seeds(measure)
        failed = result.failures(measure) or ([] if whole else ["was not ablated"])
        return cls(
            result, whole, whole.p if whole else 1.0, failed, int(whole is not None and not whole.testable)
        )

    @property
    def least_p(self) -> float:
        """The least p that its pools can reach."""
        return self.whole.least_p if self.whole else 1.0

    @property
    def untestable(self) -> str:
        """Say why nothing can be told of it."""
        for_many = f" after correction for {self.too_few} sets" if self.too_few > 1 else ""
        return (
            f"{len(self.whole.draws)} random pools can reach no p of {LEVEL}{for_many}; "
            f"{round(self.too_few / LEVEL) - 1} could"
        )

    def after_correction(self, p: float, least: float, sets: int) -> Judged:
        """Judge it as one of several sets.

        Args:
            p: of its claim, corrected.
            least: the least such p that its pools can reach.
            sets: their number.
        """
        if self.whole and least > LEVEL:
            return replace(self, p=p, too_few=sets)
        if self.failed or p <= LEVEL:
            return replace(self, p=p)
        return replace(self, p=p, failed=[f"not after correction for {sets} sets, p = {p:.2f}"])


def judge_sets(results: Sequence[SetResult], measure: str) -> list[Judged]:
    """Judge all sets, the headline first.

    A set that was not made is one of those that are corrected for, with p = 1; one that cannot be tested even
    alone is none of them. Whether pools are too few is told by their number, whatever they do.
    """
    headline, *others = (Judged.before_correction(one, measure) for one in results)
    tested = [one for one in others if not one.too_few]
    adjusted = zip(corrected([one.p for one in tested]), corrected([one.least_p for one in tested]))
    return [
        headline,
        *(one if one.too_few else one.after_correction(*next(adjusted), len(tested)) for one in others),
    ]


def claim_headline(section: Section, judged: Judged, measure: str, data: tuple[str, str]) -> None:
    """Add the one claim that was fixed before the run."""
    text = f"**Headline**, fixed in the config: {say_set(judged.result, measure, data)}"
    if judged.too_few:
        section.lines.append(f"- {text}: not testable by {len(judged.whole.draws)} pools.")
        section.cannot(f"Headline: {judged.untestable}.")
        return
    answer = f"**not specific** ({'; '.join(judged.failed)})" if judged.failed else "specific"
    section.claim(not judged.failed, f"{text}: {answer}.", f"Headline: {judged.result.name} is {answer}.")


def claim_others(section: Section, others: Sequence[Judged], measure: str) -> None:
    """Claim all other sets; the table says what was found."""
    for one in others:
        if one.too_few:
            section.cannot(f"{one.result.name}: {one.untestable}.")
            continue
        known = not_found(one.whole, measure) if one.whole else ""
        why = f"{'; '.join(one.failed)}{known}"
        section.claim(not one.failed, "", f"{one.result.name}: not specific ({why}).")


def set_table(judged: Sequence[Judged], measure: str) -> list[str]:
    """Return a table with a line a set: means over seeds by the claimed measure, the other beside it."""
    other = next(name for name in MEASURES if name != measure)
    header = (
        "ablated", f"target, {measure}", "seeds", "control", "random pools, target", "p random", "p spared",
        "p corrected", "specific", f"target, {other}", f"control, {other}", "random pools, control",
    )  # fmt: skip
    rows = []
    for i, one in enumerate(judged):
        result, whole = one.result, one.whole
        name = result.name if i else f"{result.name} (headline)"
        if whole is None:
            rows.append([name, *["n/a"] * 7, verdict(one.failed), "", "", ""])
            continue
        seeds = ", ".join(change(part.target.value, measure) for part in result.by_seed[measure].values())
        beside = result.over_seeds(other)
        rows.append([
            name, with_interval(whole.target, measure), seeds, with_interval(whole.control, measure),
            spread(whole.random, measure), f"{whole.p_random:.3f}", f"{whole.p_spared:.3f}", f"{one.p:.3f}",
            f"not testable: {len(whole.draws)} pools" if one.too_few else verdict(one.failed),
            with_interval(beside.target, other), with_interval(beside.control, other),
            spread(whole.random_control, measure),
        ])  # fmt: skip
    return table(header, rows)


def asked(ablation: pd.DataFrame, data: tuple[str, str]) -> str:
    """Say how many questions were asked, and how many different texts or images they hold."""
    rows = ablation[ablation["group"].eq("all")].drop_duplicates("dataset").set_index("dataset")
    told = [
        f"{rows.loc[name, 'n']} questions of {escape(name)} ({rows.loc[name, 'clusters']} independent texts "
        "or images)"
        for name in data
        if name in rows.index
    ]
    return f"Asked were {' and '.join(told)}." if told else ""


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


def describe_ablation(ablation: pd.DataFrame, headline: Headline, data: tuple[str, str]) -> Section:
    """Say whether ablating the set that the config fixed hurts the concept, and only it; then all else.

    Args:
        ablation: ABLATION of all concepts, one seed after another in column `seed`.
        headline: what was fixed in the config.
        data: names of target and control test data.
    """
    section = Section("Causal effect of the features")
    section.say(CRITERION, asked(ablation, data))
    judged = judge_sets(set_results(ablation, headline, data), headline.measure)
    claim_headline(section, judged[0], headline.measure, data)
    claim_others(section, judged[1:], headline.measure)
    section.say(
        "", f"Sets of the best features, means over {headline.seeds} seeds; p of all but the headline "
        "corrected by Holm's method:", "", *set_table(judged, headline.measure),
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
            f"Single features, best first, {escape(concept)}, seed {seed} (p of the margin against the first "
            "feature of each random pool; no claim):", "", *single_table(scopes),
        )  # fmt: skip
    return section

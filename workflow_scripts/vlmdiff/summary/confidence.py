"""The section "How sure are we": seeds, nulls, dependence, ground truth, selection rules, steering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmdiff.config.concepts import COUNTS
from vlmdiff.features.recurrence import RecurrenceTest, exchange_test
from vlmdiff.figures.values import sets_of_size
from vlmdiff.summary.criteria import LEVEL, NULL_SHARE, POWER, monte_carlo_p, smallest_detectable
from vlmdiff.summary.markdown import change, escape, number, p_value, percent, spread, table
from vlmdiff.summary.sections import Section, omitted_line

if TYPE_CHECKING:
    from vlmdiff.summary.write import Names

# A feature of another seed is the same direction from this cosine on (dictionary matching in the field).
SAME_DIRECTION = 0.7
# A rule that is right less often than not misleads.
MAJORITY = 0.5
# Rules that ask for rotation.
ROTATION_RULES = ("percentile", "calibrated")


def describe_recurrence(section: Section, recurrence: pd.DataFrame) -> None:
    """Say how often a final feature is found again in another seed, and how often its control is."""
    if recurrence.empty:
        section.cannot("Recurrence: no final features of two seeds to compare; `seeds` sets their number.")
    for concept, rows in recurrence.groupby("concept"):
        test = exchange_test(rows)
        if test.rows.empty:
            section.cannot(f"Recurrence, {escape(concept)}: no final feature has a control.")
            continue
        judge_recurrence(section, test, escape(concept))


def judge_recurrence(section: Section, test: RecurrenceTest, concept: str) -> None:
    """Claim that final features of one concept recur more often than their controls."""
    by_arm = test.rows.groupby("arm")
    same = by_arm["cosine"].agg(lambda cosines: (cosines >= SAME_DIRECTION).mean())
    cosine, rate = by_arm["cosine"].median(), by_arm["visual_rate"].median()
    seeds = test.rows[["seed", "other_seed"]].stack().nunique()
    low, high = (change(value, "accuracy") for value in (test.by_seeds.min(), test.by_seeds.max()))
    holds = test.p <= LEVEL
    verdict = "more often than chance" if holds else "**no more often than chance**"
    p = f"p = {number(test.p)}, {test.features} features of {seeds} seeds"
    text = (
        f"**Recurrence**, {concept}: the nearest feature of another seed is final too for "
        f"{percent(test.share('final'))} of final features and for {percent(test.share('control'))} of their "
        f"controls (same layer, nearest firing rate; median rates {number(rate['final'])} and "
        f"{number(rate['control'])}); {low} to {high} points between two seeds; exchanging final features "
        f"and controls, {p}: {verdict}. It points the same way (cosine {SAME_DIRECTION} or more) for "
        f"{percent(same['final'])} (controls {percent(same['control'])}; median cosines "
        f"{number(cosine['final'])} and {number(cosine['control'])}; no claim)"
    )
    failure = f"{concept}: final features recur {verdict} over seeds ({p})."
    section.claim(holds, f"{text}.", failure)


def describe_second_null(section: Section, thresholds: pd.DataFrame) -> None:
    """Claim that rotation is more than drift, on the null that set no threshold, where there is one.

    Paired by feature the rate of the adapted dictionary must exceed the second null's (exact McNemar test),
    and the second null must give at most a tenth of what the adapted dictionary gives.
    """
    rows = thresholds[(thresholds["layer"] < 0) & thresholds["rule"].isin(ROTATION_RULES)]
    for row in rows.dropna(subset=["check_adapted"]).itertuples(index=False):
        holds = row.check_p <= LEVEL and row.check_adapted <= NULL_SHARE * row.check_vlm_adapted
        text = (
            f"**Second null**, seed {row.seed}, {row.rule} rule: {row.check_adapted:.0f} of "
            f"{row.check_visual:.0f} calibrated features would be adapted "
            f"({percent(row.check_false_positive_rate)}, 95 % interval {percent(row.check_low)} to "
            f"{percent(row.check_high)}), against {row.check_vlm_adapted:.0f} of them in the VLM (exact "
            f"McNemar {p_value(row.check_p)})"
        )
        verdict = "more than drift" if holds else "**not more than drift**"
        section.claim(
            holds, f"{text}: {verdict}.", f"Second null, seed {row.seed}, {row.rule} rule: {verdict}."
        )
    untested = sorted(rows.loc[rows["check_adapted"].isna(), "seed"].unique())
    if rows["check_adapted"].isna().all():
        section.cannot("Whether rotation is more than drift: there is no second null (`diff.null_check`).")
    elif untested:
        seeds = f"seed{'s' * (len(untested) > 1)} {', '.join(map(str, untested))}"
        section.lines.append(
            f"- **Second null**: {seeds} without one; whether it is more is not tested there."
        )


def describe_untuned(
    section: Section, thresholds: pd.DataFrame, funnel: pd.DataFrame, untuned: pd.DataFrame
) -> None:
    """Say what a model that was never tuned gives: its features are false finds.

    Args:
        section: the chapter.
        thresholds: THRESHOLDS of the main comparison.
        funnel: FUNNEL of the main comparison.
        untuned: FUNNEL of the model that was never tuned.
    """
    rows = thresholds[(thresholds["layer"] < 0) & thresholds["rule"].isin(ROTATION_RULES)]
    if rows["untuned_adapted"].isna().all():
        section.cannot(
            "Whether a model that was never tuned has such features: there is none (`diff.untuned`)."
        )
    for row in rows.dropna(subset=["untuned_adapted"]).itertuples(index=False):
        share = row.adapted_also_untuned / row.adapted if row.adapted else float("nan")
        section.lines.append(
            f"- **Never tuned**, seed {row.seed}, {row.rule} rule: {row.adapted_also_untuned:.0f} of "
            f"{row.adapted} adapted features also rotate when nothing is tuned ({percent(share)}); of all "
            f"{row.visual} visual features {row.untuned_adapted:.0f} do ({percent(row.untuned_rate)})."
        )
    keys = ["concept", "seed"]
    last = [one[(one["layer"] < 0) & (one["stage"] == "final")] for one in (untuned, funnel)]
    both = last[0].merge(last[1], on=keys, suffixes=("", "_main"), validate="one_to_one")
    for row in both.itertuples(index=False):
        holds = row.features <= NULL_SHARE * row.features_main
        text = (
            f"**Never tuned**, {escape(row.concept)}, seed {row.seed}: {row.features} features pass every "
            f"filter, all false finds, against {row.features_main} in the VLM"
        )
        verdict = "next to nothing, as it should be" if holds else "**not next to nothing**"
        failure = (
            f"{escape(row.concept)}, seed {row.seed}: {row.features} false finds where nothing was tuned"
        )
        section.claim(holds, f"{text}: {verdict}.", f"{failure}, {row.features_main} in the VLM: {verdict}.")


def describe_dependence(
    section: Section, check: pd.DataFrame, contrasts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Say how far p of independent units overstate, and what survives samples as clusters.

    Args:
        section: the chapter.
        check: CONTRAST_CHECK.
        contrasts: by what each concept is contrasted, its unit and its fdr.
    """
    for (concept, seed), part in check.groupby(["concept", "seed"], sort=False):
        # Within strata images are clusters in the test that selects.
        if contrasts[concept]["by"] != COUNTS:
            continue
        unit, fdr = (contrasts[concept][key] for key in ("unit", "fdr"))
        row = part[part["unit"] == unit].iloc[0]
        if not row["final"]:
            continue
        kept = row["final_clustered"] / row["final"]
        named = "Tokens of one sample" if unit == "token" else "Counted per sample"
        text = (
            f"**{named}**, {escape(concept)}, seed {seed}: design effect "
            f"{number(row['median_design_effect'])} and p overstated by "
            f"{row['median_log10_overstatement']:+.1f} orders of magnitude (medians); "
            f"{row['final_clustered']} of {row['final']} final features are selected with samples as "
            f"clusters too, at a false discovery rate of {number(fdr)}"
        )
        holds = kept >= 1 - fdr
        failure = f"{percent(1 - kept)} of final features need independent {unit}s."
        section.claim(
            holds,
            f"{text}.",
            f"{escape(concept)}, seed {seed}: {failure}",
        )


def precision_of(row: pd.Series) -> str:
    """Tell the precision of a selection rule, and of how many features."""
    return f"precision {percent(row['precision'])} of {int(row['selected'])}"


def describe_truth(section: Section, quality: pd.DataFrame) -> None:
    """Give precision and recall of the full rule against the scene graphs, beside all live features."""
    whole = quality[(quality["layer"] < 0) & (quality["definition"] == "best match")]
    for (concept, seed), part in whole.groupby(["concept", "seed"]):
        rows = part.set_index("rule")
        full, live = rows.loc["full"], rows.loc["live"]
        holds = bool(full["precision"] >= MAJORITY)
        text = (
            f"**Ground truth**, {escape(concept)}, seed {seed}: {int(full['hits'])} of "
            f"{int(full['selected'])} final features tell a place, relation or truth best (precision "
            f"{percent(full['precision'])} [{percent(full['precision_low'])}, "
            f"{percent(full['precision_high'])}]; all live features {percent(live['precision'])}), recall "
            f"{percent(full['recall'])} of {int(full['spatial'])} (adapted features by the percentile rule: "
            f"{precision_of(rows.loc['full_percentile'])}; by the calibrated rule: "
            f"{precision_of(rows.loc['full_calibrated'])})"
        )
        verdict = "" if holds else ": **most final features tell something else best**"
        section.claim(
            holds,
            f"{text}{verdict}.",
            f"{escape(concept)}, seed {seed}: precision {percent(full['precision'])}{verdict}.",
        )


def describe_rules(section: Section, selection: pd.DataFrame, names: Names) -> None:
    """Compare selection rules, for each comparison, concept and size apart.

    Args:
        section: the chapter.
        selection: SELECTION of the comparisons of the default target.
        names: what the configuration calls things.
    """
    if not names.selection:
        return
    rows = selection[selection["group"] == "all"]
    lines = [
        [escape(comparison), escape(concept), *line]
        for comparison, rules in names.selection["rules"].items()
        for concept in names.headline.concepts
        for line in lines_of_rules(
            rows[rows["comparison"].eq(comparison) & rows["concept"].eq(concept)], rules, names
        )
    ]
    header = (
        "comparison", "concept", "rule", "gives", "ablated", "sets", "target, points", "target, logits",
        "control, points", "control, logits",
    )  # fmt: skip
    section.say(
        "**Selection rules.** Random subsets of what each rule gives, mean ± standard deviation of subsets. "
        "A rule that gives no more features than asked for has one set, all of them:",
        "",
        *table(header, lines),
    )


def lines_of_rules(rows: pd.DataFrame, rules: Iterable[str], names: Names) -> list[list[object]]:
    """Return the lines of one comparison and concept: every rule at every size, then the random sets."""
    lines = []
    for rule in rules:
        part = rows[rows["rule"] == rule]
        title, given = rule.replace("_", ", "), sorted(set(part["available"]))
        if part.empty:
            lines.append([title, 0, "gives none", 0, *["n/a"] * 4])
            continue
        for size in names.selection["sizes"]:
            ablated = f"{given[-1]}: all of them" if given[-1] < size else size
            sets = sets_of_size(part, size)
            lines.append([title, " to ".join(map(str, given)), ablated, *effects_of_sets(sets, names)])
    chance = rows[rows["rule"] == "random"]
    return lines + [
        ["random, matched", "", size, *effects_of_sets(part, names)] for size, part in chance.groupby("size")
    ]


def effects_of_sets(drawn: pd.DataFrame, names: Names) -> list[object]:
    """Return the number of sets, then mean and spread of what ablating them does to target and control."""
    cells: list[object] = [int((drawn["dataset"] == names.ablation_data[0]).sum())]
    for dataset in names.ablation_data:
        values = drawn[drawn["dataset"] == dataset]
        for measure in ("accuracy", "margin"):
            deltas = values[f"delta_{measure}"]
            spread = f" ± {change(deltas.std(), measure).lstrip('+')}" if len(deltas) > 1 else ""
            cells.append(f"{change(deltas.mean(), measure)}{spread}")
    return cells


def steering_verdict(best: pd.Series, pools: pd.Series) -> tuple[bool, str]:
    """Judge the best arm by its interval and by the best of each pool of random directions.

    Args:
        best: its row of STEERING.
        pools: gains in accuracy of the pools' winners.

    Returns:
        whether it helps, and the verdict with p.
    """
    p = monte_carlo_p(list(pools >= best["delta_accuracy"]))
    told = f"p = {p:.2g}"
    if not best["delta_low"] > 0:
        detectable = smallest_detectable(best["delta_low"], best["delta_high"])
        known = f"a gain of {100 * detectable:.1f} points would be found with {100 * POWER:.0f} % power"
        return False, f"{told}: **no gain** ({known if detectable else 'no answer changed'})"
    if not p <= LEVEL:
        return False, f"{told}: **no more than random directions**"
    return True, f"{told}: it helps"


def describe_steering(section: Section, steering: pd.DataFrame, data: tuple[str, str]) -> None:
    """Say of each concept whether its best arm helps beyond random directions that were chosen as it was."""
    for concept, rows in steering.groupby("concept", sort=False):
        describe_steered(section, concept, rows, data)


def describe_steered(section: Section, concept: str, steering: pd.DataFrame, data: tuple[str, str]) -> None:
    """Say it of one concept."""
    rows = steering[(steering["group"] == "all") & steering["winner"]]
    named = rows[rows["arm"] != "random"].set_index("dataset")
    if named.empty:
        return
    best, control = named.loc[data[0]], named.loc[data[1]]
    pools = rows.loc[(rows["arm"] == "random") & (rows["dataset"] == data[0]), "delta_accuracy"]
    arms = len(steering.loc[steering["arm"] != "random", ["arm", "name"]].drop_duplicates())
    holds, verdict = steering_verdict(best, pools)
    text = (
        f"**Steering** by {escape(concept)} of {escape(best['model'])}, the arm that is best on validation "
        f"data ({best['arm'].replace('_', ' + ')} at {best['name']}, strength {number(best['strength'])}): "
        f"{change(best['delta_accuracy'], 'accuracy')} "
        f"[{change(best['delta_low'], 'accuracy')}, {change(best['delta_high'], 'accuracy')}] points on "
        f"{escape(data[0])} (n = {best['n']}) from {percent(best['accuracy_clean'])}, "
        f"{change(control['delta_accuracy'], 'accuracy')} on {escape(data[1])}. The best of {arms} random "
        f"directions, chosen on the same data: {spread(pools, 'accuracy')} in {len(pools)} pools; {verdict}"
    )
    section.claim(holds, f"{text}.", f"Steering by {escape(concept)}, {verdict} on test data.")


def describe_labels(section: Section, labels: pd.DataFrame) -> None:
    """Count how many final features have a clear label."""
    for (concept, seed), part in labels.groupby(["concept", "seed"], sort=False):
        counts = part["confidence"].value_counts()
        section.lines.append(
            f"- **Labels**, {escape(concept)}, seed {seed}: {counts.get('strong', 0)} strong, "
            f"{counts.get('moderate', 0)} moderate, {counts.get('none', 0)} without a clear word or trait."
        )


def describe_confidence(tables: dict[str, pd.DataFrame], names: Names) -> Section:
    """Say how sure the findings are.

    Args:
        tables: `recurrence`, `thresholds`, `funnel`, `untuned` (the funnel
            of a model that was never tuned), `check`, `quality`, `selection`, `steering` and `labels`; empty
            where the experiment has none.
        names: what the configuration calls things.
    """
    section = Section("How sure are we")
    describe_recurrence(section, tables["recurrence"])
    describe_second_null(section, tables["thresholds"])
    describe_untuned(section, tables["thresholds"], tables["funnel"], tables["untuned"])
    describe_dependence(section, tables["check"], names.contrasts)
    describe_truth(section, tables["quality"])
    if "steering" in names.omitted:
        section.lines.append(f"- **Steering.** {omitted_line('steering')}")
    else:
        describe_steering(section, tables["steering"], names.steering_data)
    describe_labels(section, tables["labels"])
    section.say("")
    describe_rules(section, tables["selection"], names)
    section.say(
        "Controls of the model, stages of its tuning and other choices of the analyst are `comparisons` of "
        "the configuration. The targets `controls`, `stages` and `sensitivity` make them, with the same "
        "`--configfile`, each with a page of its own (`comparisons/<target>.md`)."
    )
    return section

"""The section "How sure are we": seeds, nulls, dependence, ground truth, selection rules, steering."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from vlmdiff.summary.criteria import LEVEL, NULL_SHARE
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import bracketed, change, escape, number, percent, table

# A feature of another seed is the same direction from this cosine on (dictionary matching in the field).
SAME_DIRECTION = 0.7
# A rule that is right less often than not misleads.
MAJORITY = 0.5
# Rules that ask for rotation.
ROTATION_RULES = ("percentile", "calibrated")
# Below it p are as good as 0 in double precision.
LEAST_P = 1e-300


def describe_recurrence(section: Section, recurrence: pd.DataFrame) -> None:
    """Say how often a final feature is found again in another seed, and how often any feature would be."""
    if recurrence.empty:
        return
    for concept, rows in recurrence.groupby("concept"):
        by_arm = {
            arm: (
                part["match_final"].mean(),
                (part["cosine"] >= SAME_DIRECTION).mean(),
                part["cosine"].median(),
            )
            for arm, part in rows.groupby("arm")
        }
        unknown = (np.nan,) * 3
        final, control = by_arm.get("final", unknown), by_arm.get("control", unknown)
        holds = final[0] > control[0]
        text = (
            f"**Recurrence**, {escape(concept)}: the nearest feature of another seed is final too for "
            f"{percent(final[0])} of final features (other live features: {percent(control[0])}); it points "
            f"the same way (cosine {SAME_DIRECTION} or more) for {percent(final[1])} (others "
            f"{percent(control[1])}; median cosine {number(final[2])})"
        )
        verdict = "more often than chance" if holds else "**no more often than chance**"
        section.claim(
            holds, f"{text}: {verdict}.", f"{escape(concept)}: final features recur {verdict} over seeds."
        )


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
            f"{percent(row.check_high)}), beside {row.check_vlm_adapted:.0f} of them in the VLM (exact "
            f"McNemar {p_value(row.check_p)})"
        )
        verdict = "more than drift" if holds else "**not more than drift**"
        section.claim(
            holds, f"{text}: {verdict}.", f"Second null, seed {row.seed}, {row.rule} rule: {verdict}."
        )
    untested = sorted(rows.loc[rows["check_adapted"].isna(), "seed"].unique())
    if untested:
        seeds = f"seed{'s' * (len(untested) > 1)} {', '.join(map(str, untested))}"
        section.lines.append(
            f"- **Second null**: {seeds} without one; whether it is more is not tested there."
        )


def p_value(p: float) -> str:
    """Write a p, which may be smaller than a float."""
    return f"p = {p:.2g}" if p > LEAST_P else f"p < {LEAST_P:g}"


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
            f"filter, false finds, beside {row.features_main} in the VLM"
        )
        verdict = "next to nothing, as it should be" if holds else "**not next to nothing**"
        failure = (
            f"{escape(row.concept)}, seed {row.seed}: {row.features} false finds where nothing was tuned"
        )
        section.claim(holds, f"{text}: {verdict}.", f"{failure}, {row.features_main} in the VLM: {verdict}.")


def describe_dependence(section: Section, check: pd.DataFrame) -> None:
    """Say how far p of independent tokens overstate, and what survives samples as clusters."""
    for (concept, seed), part in check[check["unit"] == "token"].groupby(["concept", "seed"], sort=False):
        row = part.iloc[0]
        if not row["final"]:
            continue
        kept = row["final_clustered"] / row["final"]
        text = (
            f"**Tokens of one sample**, {escape(concept)}, seed {seed}: design effect "
            f"{number(row['median_design_effect'])} and p overstated by "
            f"{row['median_log10_overstatement']:+.1f} orders of magnitude (medians); "
            f"{row['final_clustered']} of {row['final']} final features are selected with samples as "
            "clusters too"
        )
        holds = kept >= 1 - LEVEL
        section.claim(
            holds,
            f"{text}.",
            f"{escape(concept)}, seed {seed}: {percent(1 - kept)} of final features need independent tokens.",
        )


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
            f"{percent(full['recall'])} of {int(full['spatial'])}"
        )
        verdict = "" if holds else ": **most final features tell something else best**"
        section.claim(
            holds,
            f"{text}{verdict}.",
            f"{escape(concept)}, seed {seed}: precision {percent(full['precision'])}{verdict}.",
        )


def describe_rules(section: Section, selection: pd.DataFrame, data: tuple[str, str]) -> None:
    """Compare selection rules by random subsets of what they give."""
    rows = selection[(selection["group"] == "all")]
    drawn = rows[(rows["draw"] > 0) | (rows["rule"] == "random")]
    if drawn.empty:
        return
    lines = []
    for (comparison, rule), part in drawn.groupby(["comparison", "rule"], sort=False):
        if comparison != "main" and rule == "random":
            continue
        name = rule.replace("_", ", ") if comparison == "main" else f"{escape(comparison)}: {rule}"
        cells = [name, int(part["size"].iloc[0])]
        for dataset in data:
            values = part[part["dataset"] == dataset]
            cells += [change(values[f"delta_{m}"].mean(), m) for m in ("accuracy", "margin")]
        lines.append(cells)
    header = (
        "rule",
        "features ablated",
        "target, points",
        "target, logits",
        "control, points",
        "control, logits",
    )
    title = "**Selection rules.** Means over random subsets of what each rule gives:"
    section.say(title, "", *table(header, lines))


def describe_steering(section: Section, steering: pd.DataFrame, data: tuple[str, str]) -> None:
    """Say whether any direction helps at the strength that validation data chose."""
    rows = steering[(steering["group"] == "all") & (steering["dataset"] == data[0])]
    chosen = rows[rows["chosen"]]
    if chosen.empty:
        return
    best = chosen.sort_values(["validation_accuracy", "validation_margin"], ascending=False).iloc[0]
    control = steering[
        (steering["group"] == "all") & steering["chosen"] & steering["dataset"].eq(data[1])
        & steering["arm"].eq(best["arm"]) & steering["name"].eq(best["name"])
    ].iloc[0]  # fmt: skip
    holds = bool(best["delta_low"] > 0)
    text = (
        f"**Steering** of {escape(best['model'])} by the arm that is best on validation data "
        f"({best['arm'].replace('_', ' + ')} at {best['name']}, strength {number(best['strength'])}): "
        f"{change(best['delta_accuracy'], 'accuracy')} "
        f"[{change(best['delta_low'], 'accuracy')}, {change(best['delta_high'], 'accuracy')}] points on "
        f"{escape(data[0])} from {percent(best['accuracy_clean'])}, "
        f"{change(control['delta_accuracy'], 'accuracy')} on {escape(data[1])}"
    )
    verdict = "it helps" if holds else "**no gain**"
    section.claim(holds, f"{text}: {verdict}.", f"Steering by directions: {verdict} on test data.")


def describe_labels(section: Section, labels: pd.DataFrame) -> None:
    """Count how many final features have a clear label."""
    for (concept, seed), part in labels.groupby(["concept", "seed"], sort=False):
        counts = part["confidence"].value_counts()
        section.lines.append(
            f"- **Labels**, {escape(concept)}, seed {seed}: {counts.get('strong', 0)} strong, "
            f"{counts.get('moderate', 0)} moderate, {counts.get('none', 0)} without a clear word or trait."
        )


def describe_confidence(
    tables: dict[str, pd.DataFrame], data: tuple[str, str], steering_data: tuple[str, str]
) -> Section:
    """Say how sure the findings are.

    Args:
        tables: `recurrence`, `thresholds`, `funnel`, `untuned` (the funnel
            of a model that was never tuned), `check`, `quality`, `selection`, `steering` and `labels`; empty
            where the experiment has none.
        data: target and control test data of the ablations.
        steering_data: the same of steering.
    """
    section = Section("How sure are we")
    describe_recurrence(section, tables["recurrence"])
    describe_second_null(section, tables["thresholds"])
    describe_untuned(section, tables["thresholds"], tables["funnel"], tables["untuned"])
    describe_dependence(section, tables["check"])
    describe_truth(section, tables["quality"])
    describe_steering(section, tables["steering"], steering_data)
    describe_labels(section, tables["labels"])
    section.say("")
    describe_rules(section, tables["selection"], data)
    section.say(
        "Controls of the model, stages of its tuning and other choices of the analyst are made by "
        "`snakemake controls`, `snakemake stages` and `snakemake sensitivity`, each with a page of its own "
        "(`comparisons/<target>.md`)."
    )
    return section


def comparison_line(row: pd.Series) -> list[object]:
    """Return one line of the table of comparisons."""
    low, high = change(row["target_margin_low"], "margin"), change(row["target_margin_high"], "margin")
    effect = (
        "nothing to ablate"
        if not row["size"]
        else f"{change(row['target_margin'], 'margin')} [{low}, {high}]"
    )
    about = f"{escape(row['about'])}{': false finds' * bool(row['untuned'])}"
    found = [about, *(row[name] for name in ("seed", "visual", "adapted_percentile"))]
    found += [row["adapted_calibrated"], percent(row["null_rate"]), row["contrast"]]
    found += [f"{row['final']} ({row['final_uncalibrated']})"]
    found += [number(row["jaccard"]), percent(row["matched"]), effect]
    found += [change(row[name], "margin") for name in ("random_margin", "control_margin")]
    return found + [change(row[name], "accuracy") for name in ("target_accuracy", "control_accuracy")]


def judge_control(section: Section, row: pd.Series, main: pd.Series) -> None:
    """Hold a control against the main comparison: what it finds should be (next to) nothing."""
    holds = bool(row["final"] <= NULL_SHARE * main["final"])
    false_finds = row["untuned"] and row["final"]
    found = "final features, all of them false finds" if false_finds else "final features"
    text = f"{escape(row['about'])}: {row['final']} {found}, {main['final']} in the main comparison"
    verdict = "next to nothing, as it should be" if holds else "**not next to nothing**"
    section.claim(holds, f"{text}: {verdict}.", f"{text}: {verdict}.")


def describe_comparisons(found: Iterable[pd.DataFrame], target: str) -> Section:
    """Describe all comparisons of a target; those of `controls` are claims.

    Args:
        found: COMPARISONS of each concept.
        target: controls, stages or sensitivity.
    """
    section = Section(f"Comparisons: {target}")
    header = (
        "comparison", "seed", "visual", "adapted (percentile)", "adapted (calibrated)", "null's rate",
        "contrast", "final (not calibrated)", "Jaccard", "matched", "target, logits", "random, logits",
        "control, logits",
        "target, points", "control, points",
    )  # fmt: skip
    for frame in found:
        main = frame[frame["comparison"] == "main"].set_index("seed")
        section.say(
            f"Concept {escape(frame['concept'].iloc[0])}:",
            "",
            *table(header, map(comparison_line, rows(frame))),
        )
        if target == "controls":
            for row in rows(frame[frame["comparison"] != "main"]):
                judge_control(section, row, main.loc[row["seed"]])
            section.say("")
    return section


def describe_control_models(section: Section, accuracy: pd.DataFrame) -> None:
    """Give what the control models answer, with their images where they can see.

    Args:
        section: the page.
        accuracy: ACCURACY of the control models.
    """
    whole = accuracy[accuracy["group"] == "all"]
    if whole.empty:
        return
    seeing = whole.loc[whole["condition"] == "image", "model"]
    shown = whole[whole["condition"].eq("image") | ~whole["model"].isin(seeing)]
    lines = [
        [
            escape(row.model),
            row.condition.replace("_", " "),
            escape(row.dataset),
            bracketed(row.accuracy, row.ci_low, row.ci_high),
            percent(row.chance),
        ]
        for row in shown.itertuples(index=False)
    ]
    header = ("control model", "shown", "data", "accuracy, per cent", "chance")
    section.say("What the control models answer on held-out scenes:", "", *table(header, lines))


def rows(frame: pd.DataFrame) -> list[pd.Series]:
    """Return the rows of a frame."""
    return [row for _, row in frame.iterrows()]

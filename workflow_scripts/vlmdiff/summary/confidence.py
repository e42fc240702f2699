"""The section "How sure are we": seeds, nulls, dependence, ground truth, selection rules, steering."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from vlmdiff.summary.criteria import LEVEL, NULL_SHARE, POWER, smallest_detectable
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import bracketed, change, escape, number, percent, spread, table

# A feature of another seed is the same direction from this cosine on (dictionary matching in the field).
SAME_DIRECTION = 0.7
# A rule that is right less often than not misleads.
MAJORITY = 0.5


def describe_seeds(section: Section, ablation: pd.DataFrame, data: tuple[str, str]) -> None:
    """Give the spread over seeds of what ablating each set of best features does."""
    rows = ablation[(ablation["group"] == "all") & (ablation["arm"] == "selected") & (ablation["size"] > 1)]
    if rows.empty or rows["seed"].nunique() < 2:
        section.say("One seed of dictionaries: nothing is known about the spread over seeds.")
        return
    lines = []
    for (concept, scope, size), part in rows.groupby(["concept", "scope", "size"]):
        cells = [f"{escape(concept)}, top {size}, {scope.replace('_', ' ')}"]
        falls = []
        for dataset in data:
            values = part.loc[part["dataset"] == dataset]
            for measure in ("accuracy", "margin"):
                deltas = values[f"delta_{measure}"]
                cells.append(
                    f"{change(deltas.mean(), measure)} ± {change(deltas.std(), measure).lstrip('+')}"
                )
            falls.append(values["margin_high"].lt(0).all())
        lines.append(cells)
        failure = f"{cells[0]}: the margin does not fall in every seed."
        section.claim(falls[0], "", failure)
    header = ("ablated", "target, points", "target, logits", "control, points", "control, logits")
    section.say(
        "**Seeds.** Mean and standard deviation over seeds of dictionaries:", "", *table(header, lines)
    )


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
    """Give the false positives on the null that set no threshold."""
    for row in thresholds.dropna(subset=["check_adapted"]).itertuples(index=False):
        holds = row.check_adapted <= NULL_SHARE * row.adapted
        text = (
            f"**Second null**, seed {row.seed}, {row.rule} rule: {row.check_adapted:.0f} of {row.visual} "
            f"features would be adapted ({percent(row.check_false_positive_rate)}, 95 % interval "
            f"{percent(row.check_low)} to {percent(row.check_high)}), beside {row.adapted} in the VLM"
        )
        verdict = "" if holds else ": **not separated**"
        section.claim(holds, f"{text}{verdict}.", f"Second null, seed {row.seed}, {row.rule} rule{verdict}.")


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


def steering_verdict(best: pd.Series, pools: pd.Series) -> tuple[bool, str]:
    """Judge the best arm by its interval and by the best of each pool of random directions.

    Args:
        best: its row of STEERING.
        pools: gains in accuracy of the pools' winners.

    Returns:
        whether it helps, and the verdict with p.
    """
    p = (1 + int((pools >= best["delta_accuracy"]).sum())) / (1 + len(pools))
    told = f"p = {p:.2g}"
    if not best["delta_low"] > 0:
        detectable = smallest_detectable(best["delta_low"], best["delta_high"])
        known = f"a gain of {100 * detectable:.1f} points would be found with {100 * POWER:.0f} % power"
        return False, f"{told}: **no gain** ({known if detectable else 'no answer changed'})"
    if not p <= LEVEL:
        return False, f"{told}: **no more than random directions**"
    return True, f"{told}: it helps"


def describe_steering(section: Section, steering: pd.DataFrame, data: tuple[str, str]) -> None:
    """Say whether the best arm helps beyond random directions that were chosen as it was."""
    rows = steering[(steering["group"] == "all") & steering["winner"]]
    named = rows[rows["arm"] != "random"].set_index("dataset")
    if named.empty:
        return
    best, control = named.loc[data[0]], named.loc[data[1]]
    pools = rows.loc[(rows["arm"] == "random") & (rows["dataset"] == data[0]), "delta_accuracy"]
    arms = len(steering.loc[steering["arm"] != "random", ["arm", "name"]].drop_duplicates())
    holds, verdict = steering_verdict(best, pools)
    text = (
        f"**Steering** of {escape(best['model'])} by the arm that is best on validation data "
        f"({best['arm'].replace('_', ' + ')} at {best['name']}, strength {number(best['strength'])}): "
        f"{change(best['delta_accuracy'], 'accuracy')} "
        f"[{change(best['delta_low'], 'accuracy')}, {change(best['delta_high'], 'accuracy')}] points on "
        f"{escape(data[0])} (n = {best['n']}) from {percent(best['accuracy_clean'])}, "
        f"{change(control['delta_accuracy'], 'accuracy')} on {escape(data[1])}. The best of {arms} random "
        f"directions, chosen on the same data: {spread(pools, 'accuracy')} in {len(pools)} pools; {verdict}"
    )
    section.claim(holds, f"{text}.", f"Steering by directions, {verdict} on test data.")


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
        tables: `ablation` (with a column seed), `recurrence`, `thresholds`, `check`, `quality`, `selection`,
            `steering` and `labels`; empty where the experiment has none.
        data: target and control test data of the ablations.
        steering_data: the same of steering.
    """
    section = Section("How sure are we")
    describe_seeds(section, tables["ablation"], data)
    describe_recurrence(section, tables["recurrence"])
    describe_second_null(section, tables["thresholds"])
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
    found = [escape(row["about"]), *(row[name] for name in ("seed", "visual", "adapted_percentile"))]
    found += [row["adapted_calibrated"], percent(row["null_rate"]), row["contrast"], row["final"]]
    found += [number(row["jaccard"]), percent(row["matched"]), effect]
    found += [change(row[name], "margin") for name in ("random_margin", "control_margin")]
    return found + [change(row[name], "accuracy") for name in ("target_accuracy", "control_accuracy")]


def judge_control(section: Section, row: pd.Series, main: pd.Series) -> None:
    """Hold a control against the main comparison: what it finds should be (next to) nothing."""
    holds = bool(row["final"] <= NULL_SHARE * main["final"])
    text = f"{escape(row['about'])}: {row['final']} final features, {main['final']} in the main comparison"
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
        "contrast", "final", "Jaccard", "matched", "target, logits", "random, logits", "control, logits",
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

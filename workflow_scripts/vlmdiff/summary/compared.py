"""The pages of controls, stages and sensitivity: further comparisons beside the main one."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from vlmdiff.summary.criteria import NULL_SHARE
from vlmdiff.summary.markdown import bracketed, change, escape, number, percent, table
from vlmdiff.summary.sections import Section, omitted_line

FOUND = (
    "comparison", "seed", "visual", "adapted (percentile)", "adapted (calibrated)", "null's rate", "contrast",
    "final (not calibrated)", "Jaccard", "matched",
)  # fmt: skip
EFFECTS = ("target, logits", "random, logits", "control, logits", "target, points", "control, points")


def effect_cells(row: pd.Series) -> list[str]:
    """Return what ablating the final features of a comparison does."""
    low, high = change(row["target_margin_low"], "margin"), change(row["target_margin_high"], "margin")
    effect = (
        "nothing to ablate"
        if not row["size"]
        else f"{change(row['target_margin'], 'margin')} [{low}, {high}]"
    )
    cells = [effect, *(change(row[name], "margin") for name in ("random_margin", "control_margin"))]
    return cells + [change(row[name], "accuracy") for name in ("target_accuracy", "control_accuracy")]


def comparison_line(row: pd.Series, ablated: bool) -> list[object]:
    """Return one line of the table of comparisons."""
    about = f"{escape(row['about'])}{': false finds' * bool(row['untuned'])}"
    found = [about, *(row[name] for name in ("seed", "visual", "adapted_percentile"))]
    found += [row["adapted_calibrated"], percent(row["null_rate"]), row["contrast"]]
    found += [f"{row['final']} ({row['final_uncalibrated']})"]
    found += [number(row["jaccard"]), percent(row["matched"])]
    return found + (effect_cells(row) if ablated else [])


def judge_control(section: Section, row: pd.Series, main: pd.Series) -> None:
    """Hold a control against the main comparison: what it finds should be (next to) nothing."""
    holds = bool(row["final"] <= NULL_SHARE * main["final"])
    false_finds = row["untuned"] and row["final"]
    found = "final features, all of them false finds" if false_finds else "final features"
    text = f"{escape(row['about'])}: {row['final']} {found}, {main['final']} in the main comparison"
    verdict = "next to nothing, as it should be" if holds else "**not next to nothing**"
    section.claim(holds, f"{text}: {verdict}.", f"{text}: {verdict}.")


def describe_comparisons(found: Iterable[pd.DataFrame], target: str, ablated: bool = True) -> Section:
    """Describe all comparisons of a target; those of `controls` are claims.

    Args:
        found: COMPARISONS of each concept.
        target: controls, stages or sensitivity.
        ablated: whether features were ablated.
    """
    section = Section(f"Comparisons: {target}")
    header = FOUND + EFFECTS * ablated
    if not ablated:
        section.say(omitted_line("ablation"))
    for frame in found:
        main = frame[frame["comparison"] == "main"].set_index("seed")
        section.say(
            f"Concept {escape(frame['concept'].iloc[0])}:",
            "",
            *table(header, [comparison_line(row, ablated) for row in rows(frame)]),
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

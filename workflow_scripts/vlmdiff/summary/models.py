"""What the models answer: measured on the models of the configuration, whatever they are called.

The built-in world's checkpoints are measured on all its test data, with their images, without, and with
others. Of any other model the interventions measure what it answers when nothing is changed in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.summary.criteria import ACCURACY_GOAL, at_chance
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import bracketed, escape, percent, table

IMAGE, CLEAN_RUN = "image", "clean_run"
AS_ASKED = (IMAGE, CLEAN_RUN)
CONDITIONS = MappingProxyType(
    {IMAGE: "", CLEAN_RUN: "", "no_image": ", no image", "shuffled_image": ", shuffled image"}
)


def clean_runs(effects: Iterable[pd.DataFrame], model: str) -> pd.DataFrame:
    """Return what a model answers when nothing is changed in it, in the columns of ACCURACY.

    Args:
        effects: tables with the columns of EFFECT, all of interventions in this model.
        model: its name in the config.
    """
    columns = ["dataset", "group", "n", "accuracy_clean"]
    found = pd.concat([one[columns] for one in effects], ignore_index=True)
    # Every intervention has the same clean run; of two of one data set the one on more samples counts.
    found = found.sort_values("n", ascending=False, kind="stable").drop_duplicates(["dataset", "group"])
    correct = (found["n"] * found["accuracy_clean"]).round().astype(int)
    low, high = proportion_confint(correct, found["n"], method="wilson") if len(found) else (np.nan, np.nan)
    return found.rename(columns={"accuracy_clean": "accuracy"}).assign(
        model=model, condition=CLEAN_RUN, correct=correct, accuracy_vocabulary=np.nan, ci_low=low,
        ci_high=high, chance=np.nan,
    )  # fmt: skip


def measured(accuracy: pd.DataFrame, effects: Iterable[pd.DataFrame], model: str) -> pd.DataFrame:
    """Return all accuracies that belong to models of the config.

    Args:
        accuracy: ACCURACY, under the names of the config.
        effects: tables with the columns of EFFECT, all of interventions in `model`.
        model: the fine-tuned model.

    Returns:
        ACCURACY, with clean runs of the fine-tuned model on data where nothing else was measured.
    """
    runs = clean_runs(effects, model)
    known = accuracy.loc[accuracy["model"] == model, "dataset"]
    runs = runs[~runs["dataset"].isin(known)]
    return pd.concat([accuracy, runs[accuracy.columns]], ignore_index=True) if len(runs) else accuracy


def say_models(accuracy: pd.DataFrame, model: str, datasets: Iterable[str]) -> str:
    """Say how well the model answers with and without its images; nothing if it was not evaluated."""
    whole = accuracy[accuracy["group"].eq("all") & accuracy["model"].eq(model)]
    parts = []
    for dataset in datasets:
        found = whole[whole["dataset"] == dataset].groupby("condition")["accuracy"].mean()
        for condition in found.index.intersection(AS_ASKED):
            without = f" ({percent(found['no_image'])} without image)" if "no_image" in found.index else ""
            parts.append(f"{percent(found[condition])} of {escape(dataset)}{without}")
    with_images = "With its images " if (whole["condition"] == IMAGE).any() else ""
    return f"{with_images}{escape(model)} answers {' and '.join(parts)}." if parts else ""


def written_share(value: float) -> str:
    """Write a share as a number of per cent; nothing if it is not known."""
    return "" if np.isnan(value) else f"{100 * value:.1f}"


def accuracy_table(accuracy: pd.DataFrame) -> list[str]:
    """Return a table with a line per data set and group, a column per model and condition."""
    conditions = accuracy["condition"].map(CONDITIONS).fillna(accuracy["condition"])
    rows = accuracy.assign(
        who=[escape(f"{model}{how}") for model, how in zip(accuracy["model"], conditions)],
        cell=[f"{100 * value:.1f}" for value in accuracy["accuracy"]],
    )
    wide = rows.pivot_table(
        index=["dataset", "group"], columns="who", values="cell", aggfunc="first", sort=False
    )
    chance = rows.groupby(["dataset", "group"])["chance"].mean()
    lines = [
        [*map(escape, key), written_share(chance[key]), *cells]
        for key, cells in zip(wide.index, wide.fillna("").to_numpy())
    ]
    return table(("data", "group", "chance", *wide.columns), lines)


def judge_model(section: Section, accuracy: pd.DataFrame, row: pd.Series, model: str) -> None:
    """Hold one accuracy against the goal, or a control against chance; other models that see are only listed.

    Controls are the fine-tuned model without its images, and models that see none.
    """
    how = CONDITIONS.get(row["condition"], row["condition"])
    who = f"{escape(row['model'] + how)} on {escape(row['dataset'])}"
    found = f"{bracketed(row['accuracy'], row['ci_low'], row['ci_high'])} %"
    if row["model"] == model and row["condition"] in AS_ASKED:
        same = [row[key] for key in ("model", "condition", "dataset")]
        kinds = accuracy[
            accuracy["group"].ne("all") & accuracy[["model", "condition", "dataset"]].eq(same).all(axis=1)
        ]
        reached = int((kinds["accuracy"] >= ACCURACY_GOAL).sum())
        goal = f"{100 * ACCURACY_GOAL:.0f} %"
        holds = row["accuracy"] >= ACCURACY_GOAL
        verdict = f"{'reaches' if holds else '**misses**'} the goal of {goal}"
        text = f"{who}: {found} ({reached} of {len(kinds)} groups at {goal} or more): {verdict}."
        section.claim(holds, text, f"{who}: {percent(row['accuracy'])}, {verdict}.")
    elif row["model"] not in others_that_see(accuracy, model):
        holds = at_chance(row["accuracy"], row["chance"])
        verdict = "at chance" if holds else "**not at chance**"
        text = f"Control {who}: {found}, chance {percent(row['chance'])}: {verdict}."
        section.claim(holds, text, f"Control {who}: {percent(row['accuracy'])}, {verdict}.")


def others_that_see(accuracy: pd.DataFrame, model: str) -> set[str]:
    """Return the models beside the fine-tuned one that were shown images, such as its snapshots."""
    return set(accuracy.loc[accuracy["condition"] == IMAGE, "model"]) - {model}


def describe_models(accuracy: pd.DataFrame, model: str, datasets: list[str]) -> Section:
    """Say whether the model answers with its images, and only with them.

    Args:
        accuracy: what `measured` returns.
        model: the fine-tuned model.
        datasets: test data on which the claims are made.
    """
    section = Section("Models")
    rows = accuracy[accuracy["dataset"].isin(datasets)]
    whole = rows[rows["group"] == "all"]
    for dataset in datasets:
        if not whole[["model", "dataset"]].eq([model, dataset]).all(axis=1).any():
            text = f"{escape(model)} was not evaluated on {escape(dataset)}."
            section.claim(False, text, text)
    for _, row in whole.iterrows():
        judge_model(section, accuracy, row, model)
    if rows.empty:
        return section
    if (rows["condition"] == CLEAN_RUN).any():
        section.say("", f"{escape(model)} was asked by the interventions, with nothing changed in it.")
    # Other data sets, and snapshots without their images, are in the table file only.
    unshown = rows["model"].isin(others_that_see(accuracy, model)) & rows["condition"].ne(IMAGE)
    section.say("", "Accuracies in per cent:", "", *accuracy_table(rows[~unshown]))
    return section

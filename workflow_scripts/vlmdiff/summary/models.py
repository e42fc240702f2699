"""What the models answer: whether the model under study answers at all, and whether its images help.

Ablation takes something away from answers. From answers at chance nothing can be taken, and from answers that
do not need the image nothing that was seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from vlmdiff.summary.criteria import LEVEL
from vlmdiff.summary.markdown import bracketed, escape, number, percent, table
from vlmdiff.summary.sections import Section

IMAGE, NO_IMAGE, SHUFFLED_IMAGE = "image", "no_image", "shuffled_image"
CONDITIONS = MappingProxyType({IMAGE: "", NO_IMAGE: ", no image", SHUFFLED_IMAGE: ", another sample's image"})
WITHOUT = MappingProxyType({NO_IMAGE: "without any", SHUFFLED_IMAGE: "with those of other samples"})


def of_model(accuracy: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    """Return what a model answers of a whole data set, by condition."""
    rows = accuracy[accuracy["group"].eq("all") & accuracy["model"].eq(model) & (accuracy["n"] > 0)]
    return rows[rows["dataset"] == dataset].set_index("condition")


def say_models(accuracy: pd.DataFrame, model: str, datasets: Iterable[str]) -> str:
    """Say how well the model answers with and without its images; nothing if it was not evaluated."""
    parts, sees = [], False
    for dataset in datasets:
        found = of_model(accuracy, model, dataset)["accuracy"]
        if found.empty:
            continue
        sees = sees or IMAGE in found.index
        others = [f"{percent(found[name])} {WITHOUT[name]}" for name in WITHOUT if name in found.index]
        besides = f" ({', '.join(others)})" if IMAGE in found.index and others else ""
        parts.append(f"{percent(found[asked_as(found)])} of {escape(dataset)}{besides}")
    with_images = "With its images " if sees else ""
    return f"{with_images}{escape(model)} answers {' and '.join(parts)}." if parts else ""


def asked_as(found: pd.Series | pd.DataFrame) -> str:
    """Return the condition under which a model is studied: with images, if it sees any."""
    return IMAGE if IMAGE in found.index else NO_IMAGE


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
    blind = rows.groupby(["dataset", "group"])[["chance", "guess"]].mean()
    lines = [
        [*map(escape, key), *map(written_share, blind.loc[key]), *cells]
        for key, cells in zip(wide.index, wide.fillna("").to_numpy())
    ]
    return table(("data", "group", "chance", "commonest answers", *wide.columns), lines)


def judge_answers(section: Section, row: pd.Series, who: str) -> None:
    """Claim that a model answers above chance: the interval of its accuracy lies above it.

    Where some answers are common, always giving these is what chance is worth (`guess` of ACCURACY).
    """
    holds = bool(row["ci_low"] > max(row["chance"], row["guess"]))
    found = bracketed(row["accuracy"], row["ci_low"], row["ci_high"])
    chance = f"chance {percent(row['chance'])}"
    if row["guess"] > row["chance"]:
        chance += f", {percent(row['guess'])} by the commonest answers"
    verdict = "above chance" if holds else "**not above chance**: ablation has nothing to take away"
    section.claim(
        holds,
        f"{who}: {found} % of {row['n']} questions, {chance}: {verdict}.",
        f"{who}: {percent(row['accuracy'])}, {chance}: {verdict}.",
    )


def images_help_p(row: pd.Series) -> float:
    """Return the exact one-sided p of McNemar's test that images help on the same samples."""
    different = int(row["image_only"] + row["condition_only"])
    return binomtest(int(row["image_only"]), different, alternative="greater").pvalue if different else 1.0


def judge_images(section: Section, found: pd.DataFrame, who: str) -> None:
    """Claim that a model answers more with its images than under each other condition.

    Args:
        section: the chapter.
        found: its accuracies on the whole data set, by condition, of which `IMAGE` is one.
        who: model and data set, in words.
    """
    for condition in (one for one in WITHOUT if one not in found.index):
        section.lines.append(f"- {who}: it could not be asked {WITHOUT[condition]}.")
    tried = [row for condition, row in found.iterrows() if condition in WITHOUT]
    if not tried:
        return
    holds = all(images_help_p(row) <= LEVEL for row in tried)
    verdict = "its images help" if holds else "**its images do not help**"
    text = f"{who}, with its images {percent(found.loc[IMAGE, 'accuracy'])}"
    shares = [f"{WITHOUT[row.name]} {percent(row['accuracy'])}" for row in tried]
    counts = [
        f"{share}: {row['image_only']} questions answered only with them, {row['condition_only']} only so "
        f"(McNemar's exact p = {number(images_help_p(row))})"
        for share, row in zip(shares, tried)
    ]
    section.claim(
        holds, f"{text}; {'; '.join(counts)}: {verdict}.", f"{text}, {', '.join(shares)}: {verdict}."
    )


def judge_model(section: Section, found: pd.DataFrame, model: str, dataset: str) -> None:
    """Claim that the model under study answers a data set, and because of its images.

    Args:
        section: the chapter.
        found: its accuracies on the whole data set, by condition.
        model: the model under study.
        dataset: name of the data set.
    """
    who = f"{escape(model)} on {escape(dataset)}"
    if found.empty:
        text = (
            f"{escape(model)} was not asked the questions of {escape(dataset)}: nobody knows what it answers."
        )
        section.claim(False, text, text)
        return
    judge_answers(section, found.loc[asked_as(found)], who)
    if IMAGE not in found.index:
        section.lines.append(f"- {who}: it was shown no images.")
        return
    judge_images(section, found, who)


def others_that_see(accuracy: pd.DataFrame, model: str) -> set[str]:
    """Return the models beside the one under study that were shown images, such as its snapshots."""
    return set(accuracy.loc[accuracy["condition"] == IMAGE, "model"]) - {model}


def describe_models(accuracy: pd.DataFrame, model: str, datasets: list[str]) -> Section:
    """Say whether the model answers with its images, and only with them.

    Args:
        accuracy: ACCURACY, under the names of the config.
        model: the model under study.
        datasets: test data on which the claims are made; none where nothing is reported on.
    """
    section = Section("Models")
    if not datasets:
        section.say("The model was asked nothing: no stage names data to report on (`ablation: none`).")
    for dataset in datasets:
        judge_model(section, of_model(accuracy, model, dataset), model, dataset)
    rows = accuracy[accuracy["dataset"].isin(datasets) & (accuracy["n"] > 0)]
    if rows.empty:
        return section
    # Other data sets, and snapshots without their images, are in the table file only.
    unshown = rows["model"].isin(others_that_see(accuracy, model)) & rows["condition"].ne(IMAGE)
    section.say("", "Accuracies in per cent:", "", *accuracy_table(rows[~unshown]))
    return section

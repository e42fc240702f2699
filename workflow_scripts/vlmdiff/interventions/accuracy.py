"""How well a model answers: with its images, without any, and with those of other samples."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.held_out import held_out_samples
from vlmdiff.data.identity import image_identity
from vlmdiff.data.samples import Sample
from vlmdiff.interventions.answers import ChoiceScorer
from vlmdiff.interventions.effects import ALL
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import ACCURACY

IMAGE, NO_IMAGE, SHUFFLED_IMAGE = "image", "no_image", "shuffled_image"
log = logging.getLogger(__name__)


def with_others_images(samples: Sequence[Sample], seed: int) -> list[Sample] | None:
    """Give every sample that has an image the image of another one, whose content is another.

    Samples are put into random order, those with the same picture side by side, and each takes the image
    that lies as many places further as the most frequent picture has samples.

    Args:
        samples: samples of one data set.
        seed: seed of the order.

    Returns:
        The samples in their order; None if more than half of the images are the same, or there is none.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        if (shown := image_identity(sample)) is not None:
            same[shown].append(index)
    step = max(map(len, same.values()), default=0)
    count = sum(map(len, same.values()))
    if not 0 < 2 * step <= count:
        return None
    contents = sorted(same)
    order = [i for at in np.random.default_rng(seed).permutation(len(contents)) for i in same[contents[at]]]
    asked = list(samples)
    for place, index in enumerate(order):
        asked[index] = asked[index].model_copy(update={"image": samples[order[(place + step) % count]].image})
    return asked


def conditions(subject: Subject, samples: Sequence[Sample], seed: int) -> dict[str, list[Sample]]:
    """Return what a model can be shown of a data set, by condition; those that cannot be made are left out.

    Without an image a model is asked the text alone, in its own format without the image's place.
    """
    blind = [sample.model_copy(update={"image": None}) for sample in samples]
    if subject.image_id is None or all(sample.image is None for sample in samples):
        return {NO_IMAGE: blind}
    found = {IMAGE: list(samples), NO_IMAGE: blind}
    others = with_others_images(samples, seed)
    if others is None:
        log.warning("more than half of the images are the same: no sample can be shown another's")
        return found
    return {**found, SHUFFLED_IMAGE: others}


def guessed(samples: Sequence[Sample], seed: int) -> np.ndarray:
    """Return how likely a guess is right that knows which answers are common, but not the question.

    Samples are dealt into halves, and each is guessed by the other half: that of its choices which is the
    answer there most often among samples of its group; one of them, if several are.

    Args:
        samples: multiple-choice questions.
        seed: seed of the halves.

    Returns:
        (n,) probabilities.
    """
    half = np.random.default_rng(seed).permutation(len(samples)) % 2
    common = Counter((side, sample.group, sample.answer) for side, sample in zip(half, samples))
    found = np.zeros(len(samples))
    for index, sample in enumerate(samples):
        counts = {one: common[1 - half[index], sample.group, one] for one in sample.choices}
        commonest = [one for one, count in counts.items() if count == max(counts.values())]
        found[index] = (sample.answer in commonest) / len(commonest)
    return found


@torch.no_grad()
def answered(subject: Subject, samples: Sequence[Sample], batch_tokens: int) -> pd.DataFrame:
    """Answer every question once.

    Args:
        subject: the model.
        samples: multiple-choice questions.
        batch_tokens: most tokens in one forward pass, padding included; a CPU gets at most 2,048.

    Returns:
        One row a sample: group, correct (among its choices), correct_word (among all tokens), chance.

    Raises:
        AnswerError: a sample cannot be scored.
    """
    scorer = ChoiceScorer(subject.tokenizer, samples)
    correct, word = np.zeros((2, len(samples)), dtype=bool)
    for indices, batch in prepare_batches(subject, samples, batch_tokens):
        logits = subject.final_logits(batch)
        correct[indices] = (scorer.margins(logits, indices) > 0).cpu().numpy()
        of_answer = scorer.token_ids[torch.tensor(indices), scorer.answer[indices]]
        word[indices] = (of_answer == logits.argmax(-1).cpu()[:, None]).any(1).numpy()
    return pd.DataFrame(
        {
            "group": [sample.group for sample in samples],
            "correct": correct,
            "correct_word": word,
            "chance": [1 / len(sample.choices) for sample in samples],
        }
    )


def summarise(scores: pd.DataFrame, with_images: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies with Wilson 95 % intervals, of each group and of all samples.

    Args:
        scores: what `answered` returns under a condition, with `guess` of each sample.
        with_images: the same of the same samples, with their images.
    """
    scores = scores.assign(
        image_only=with_images["correct"] & ~scores["correct"],
        condition_only=scores["correct"] & ~with_images["correct"],
    )
    table = pd.concat([scores, scores.assign(group=ALL)]).groupby("group").agg(
        n=("correct", "size"),
        correct=("correct", "sum"),
        accuracy=("correct", "mean"),
        accuracy_vocabulary=("correct_word", "mean"),
        chance=("chance", "mean"),
        guess=("guess", "mean"),
        image_only=("image_only", "sum"),
        condition_only=("condition_only", "sum"),
    )  # fmt: skip
    low, high = proportion_confint(table["correct"], table["n"], method="wilson")
    return table.assign(ci_low=low, ci_high=high).reset_index()


def accuracies(
    subject: Subject, name: str, datasets: Mapping[str, Sequence[Sample]], batch_tokens: int, seed: int
) -> pd.DataFrame:
    """Return what a model answers under every condition that it can be put to: the columns of ACCURACY.

    Args:
        subject: the model.
        name: what the table calls it.
        datasets: questions by the name of their data set.
        batch_tokens: most tokens in one forward pass.
        seed: the configuration's seed; decides whose images are shown instead.
    """
    parts = []
    for dataset, samples in datasets.items():
        shown = conditions(subject, samples, derive_seed(seed, "shuffle", dataset))
        scores = {condition: answered(subject, these, batch_tokens) for condition, these in shown.items()}
        guess = guessed(samples, derive_seed(seed, "guess", dataset))
        for condition, found in scores.items():
            part = summarise(found.assign(guess=guess), scores.get(IMAGE, found))
            log.info("%s, %s, %s:\n%s", name, condition, dataset, part.to_string(index=False))
            parts.append(part.assign(model=name, condition=condition, dataset=dataset))
    return pd.concat(parts, ignore_index=True)


def evaluate_model(
    model: ModelFiles,
    samples: Sequence[str | Path],
    held_out: Sequence[str | Path],
    output: str | Path,
    *,
    names: Sequence[str],
    limits: Sequence[int],
    batch_tokens: int,
    seed: int,
) -> None:
    """Write the table ACCURACY of a model of the configuration.

    Args:
        model: the model.
        samples: samples.jsonl of each data set.
        held_out: HELD_OUT of each data set: only samples that are kept are asked, as in every intervention.
        output: where to write it.
        names: names of the data sets.
        limits: how many samples of each, from the first on.
        batch_tokens: most tokens in one forward pass.
        seed: the configuration's seed.
    """
    entries = zip(names, samples, held_out, limits, strict=True)
    datasets = {name: held_out_samples(table, file, limit) for name, file, table, limit in entries}
    write_table(accuracies(model.load(), model.name, datasets, batch_tokens, seed), ACCURACY, output)

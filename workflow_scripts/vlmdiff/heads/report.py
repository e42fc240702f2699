"""Ablate the top heads on test data beside random heads of the same blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from vlmdiff.data.samples import load_samples
from vlmdiff.heads.ablation import Head, HeadAblation, head_means
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, table_of
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import HEAD_ABLATION, HEAD_SCORES
from vlmdiff.tables.io import read_table, write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadArm:
    """One set of heads that is ablated together."""

    arm: str
    size: int
    draw: int
    heads: tuple[Head, ...]


def scored_heads(scores: str) -> list[Head]:
    """Return the heads of scores.csv, best first."""
    table = read_table(scores, HEAD_SCORES).sort_values("rank")
    return list(zip(table["layer"].astype(int), table["head"].astype(int)))


def random_sets(others: Sequence[Head], size: int, draws: int, seed: int) -> list[tuple[Head, ...]]:
    """Return `draws` different random sets of heads, or all that there are if there are fewer."""
    if comb(len(others), size) <= draws:
        return list(combinations(sorted(others), size))
    generator = np.random.default_rng(derive_seed(seed, "random heads", size))
    found: dict[tuple[Head, ...], None] = {}
    while len(found) < draws:
        chosen = sorted(generator.choice(len(others), size=size, replace=False))
        found[tuple(others[i] for i in chosen)] = None
    return list(found)


def head_arms(heads: Sequence[Head], sizes: Sequence[int], draws: int, seed: int) -> Iterator[HeadArm]:
    """Yield the top sets, then random sets of heads that are in no top set.

    Random heads come from the same blocks: those of the scored heads.
    """
    fitting = sorted({size for size in sizes if size <= len(heads)})
    if skipped := sorted(set(sizes) - set(fitting)):
        log.warning("sets of %s heads are skipped: only %d heads are scored", skipped, len(heads))
    others = heads[max(fitting, default=0) :]
    for size in fitting:
        yield HeadArm("top", size, 0, tuple(heads[:size]))
    for size in fitting:
        for draw, chosen in enumerate(random_sets(others, size, draws, seed)):
            yield HeadArm("random", size, draw, chosen)


def evaluate_head_ablation(
    model: ModelFiles,
    questions: QuestionSets,
    mean_file: str,
    scores: str,
    output: str,
    *,
    concept: str,
    mean_samples: int,
    ablate_sizes: Sequence[int],
    random_draws: int,
    bootstrap: int,
    seed: int,
) -> None:
    """Mean-ablate the top heads and random heads on test data and write head_ablation.csv.

    Args:
        model: the VLM.
        questions: test data.
        mean_file: samples.jsonl of general validation questions, over which heads are averaged.
        scores: scores.csv of the concept.
        output: head_ablation.csv.
        concept: name of the concept.
        mean_samples: how many samples of `mean_file`, from the first on.
        ablate_sizes: numbers of heads ablated together.
        random_draws: random sets of each size.
        bootstrap: resamples of the paired bootstrap.
        seed: seed of the job.
    """
    heads = scored_heads(scores)
    rows: list[dict[str, Any]] = []
    if not heads:
        log.warning("concept '%s' has no scored heads: nothing to ablate", concept)
    else:
        subject = model.load()
        samples = load_samples(Path(mean_file), limit=mean_samples)
        layers = sorted({layer for layer, _ in heads})
        means = head_means(subject, samples, layers, questions.batch_tokens)
        arms = list(head_arms(heads, ablate_sizes, random_draws, seed))
        ablations = [HeadAblation(subject, arm.heads, means) for arm in arms]
        effects = questions.evaluations(subject)
        rows = list(ablation_rows(effects, arms, ablations, bootstrap, seed))
    names = [name for name in HEAD_ABLATION.names if name != "concept"]
    write_table(table_of(rows, names).assign(concept=concept), HEAD_ABLATION, output)


def ablation_rows(
    evaluations: Mapping[str, Any],
    arms: Sequence[HeadArm],
    ablations: Sequence[HeadAblation],
    resamples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of head_ablation.csv, the concept aside."""
    effects = {
        name: EffectTable(name, evaluation.samples, evaluation.answers(), resamples, seed)
        for name, evaluation in evaluations.items()
    }
    for arm, ablation in progress(list(zip(arms, ablations)), "ablations"):
        first = {"arm": arm.arm, "size": arm.size, "draw": arm.draw}
        first["heads"] = ";".join(f"L{layer}H{head}" for layer, head in arm.heads)
        for name, evaluation in evaluations.items():
            answers = evaluation.answers(ablation, ablation.first_block)
            yield from ({**first, **row} for row in effects[name].rows(answers))

"""Ablate the top heads on test data beside random heads of the same blocks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod
from pathlib import Path
from typing import Any

import numpy as np

from vlmdiff.data.samples import load_samples
from vlmdiff.heads.mean_ablation import Head, HeadAblation, head_means
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, table_of
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import HEAD_ABLATION, HEAD_SCORES
from vlmdiff.tables.io import read_table, write_table

log = logging.getLogger(__name__)
# With fewer random sets a Monte-Carlo test cannot reach 1 in 20.
TESTABLE_DRAWS = 19


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


def random_sets(heads: Sequence[Head], top: Sequence[Head], draws: int, seed: int) -> list[tuple[Head, ...]]:
    """Return different random sets that have as many heads in each block as a top set; never the top set.

    They may share heads with it. If top heads are like any others of their blocks, the top set and these sets
    are then draws of one kind, and its rank among them is an exact p. Sets without any of its heads resemble
    one another more than they resemble it: it would be the most extreme of 21 too often (in simulations 10
    to 19 % of top sets that were chosen at random, tests/unit/test_simulation_causal.py; Southworth, Kim and
    Owen, "Properties of balanced permutations", Journal of Computational Biology 16, 2009).

    Args:
        heads: all heads of these blocks, in any order.
        top: the set under test.
        draws: how many; all that there are if there are fewer.
        seed: of the draws.
    """
    wanted = Counter(layer for layer, _ in top)
    blocks = [
        (sorted(head for head in heads if head[0] == layer), count) for layer, count in sorted(wanted.items())
    ]
    itself = tuple(sorted(top))
    if prod(comb(len(own), count) for own, count in blocks) - 1 <= draws:
        parts = product(*(combinations(own, count) for own, count in blocks))
        every = (tuple(head for part in chosen for head in part) for chosen in parts)
        return [one for one in every if one != itself]
    generator = np.random.default_rng(derive_seed(seed, "random heads", len(top)))
    found: dict[tuple[Head, ...], None] = {}
    while len(found) < draws:
        chosen = [(own, sorted(generator.choice(len(own), count, replace=False))) for own, count in blocks]
        drawn = tuple(own[i] for own, places in chosen for i in places)
        if drawn != itself:
            found[drawn] = None
    return list(found)


def head_arms(heads: Sequence[Head], sizes: Sequence[int], draws: int, seed: int) -> Iterator[HeadArm]:
    """Yield the top sets, then the random sets of each.

    Blocks differ in what their heads do to answers: a random set has as many heads in each block as the top
    set that it is held against.
    """
    fitting = sorted({size for size in sizes if size <= len(heads)})
    if skipped := sorted(set(sizes) - set(fitting)):
        log.warning("sets of %s heads are skipped: only %d heads are scored", skipped, len(heads))
    for size in fitting:
        yield HeadArm("top", size, 0, tuple(heads[:size]))
    for size in fitting:
        drawn = random_sets(heads, heads[:size], draws, seed)
        if len(drawn) < TESTABLE_DRAWS:
            log.warning(
                "top %d heads: %d random sets of the same blocks, so no p below %.2f can be reached: not "
                "testable; more sets exist where the top heads lie in more blocks (heads.ablate_sizes)",
                size, len(drawn), 1 / (1 + len(drawn)),
            )  # fmt: skip
        else:
            log.info("top %d heads: %d random sets of the same blocks", size, len(drawn))
        for draw, chosen in enumerate(drawn):
            yield HeadArm("random", size, draw, chosen)


def evaluate_head_ablation(
    model: ModelFiles,
    questions: QuestionSets,
    mean_file: str,
    scores: str,
    output: str,
    *,
    concept: str,
    averaged_samples: int,
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
        averaged_samples: how many samples of `mean_file`, from the first on.
        ablate_sizes: numbers of heads ablated together.
        random_draws: random sets of each size; fewer where the blocks of the top heads have fewer.
        bootstrap: resamples of the paired bootstrap.
        seed: seed of the job.
    """
    heads = scored_heads(scores)
    rows: list[dict[str, Any]] = []
    if not heads:
        log.warning("concept '%s' has no scored heads: nothing to ablate", concept)
    else:
        subject = model.load()
        samples = load_samples(Path(mean_file), limit=averaged_samples)
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
            answers = evaluation.answers(ablation)
            yield from ({**first, **row} for row in effects[name].rows(answers))

"""Add directions to the residual stream: do answers get better? (docs/understand/method.md section 7).

Contrastive activation addition (CAA): `v` is the mean residual of samples that the model answers correctly
minus that of samples that it answers wrong, each mean-pooled over the text tokens after the image. What is
added has a length in units of the mean residual norm at the layer, so that strengths of different layers
compare.

Named arms choose their strength, and the claim its arm, on validation data. So do the random directions that
they are held against: a pool has as many of them as there are arms, and sends its best one to the test data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.activations.tokens import TEXT
from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.evaluation import Evaluation, with_images_at
from vlmdiff.interventions.feature_ablation import check_directions, unit_directions
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    QuestionSets,
    dictionary_folders,
    ranked_features,
    table_of,
)
from vlmdiff.models.batch import Batch
from vlmdiff.models.hooks import edit_input, edit_output
from vlmdiff.models.positions import text_after_image
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import STEERING
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.io import write_table

log = logging.getLogger(__name__)
NO_FEATURE = -1


@dataclass(frozen=True)
class Pooled:
    """Residual streams of some samples.

    Attributes:
        means: by layer (samples, d_model), mean over the text tokens after the image.
        norms: by layer, mean norm of the residual stream over those tokens.
    """

    means: Mapping[int, Tensor]
    norms: Mapping[int, float]


@dataclass(frozen=True)
class Direction:
    """What an arm adds: a direction at a layer.

    Attributes:
        arm: caa, caa_middle, feature, caa_feature or random.
        layer: block to whose output it is added.
        feature: index in the dictionary, or -1.
        draw: number of the pool of random directions, else 0.
        vector: (d_model,), of length 1; twice a unit where two directions are added.
    """

    arm: str
    layer: int
    feature: int
    draw: int
    vector: Tensor

    @property
    def name(self) -> str:
        """Name it by its feature or by its layer."""
        return f"L{self.layer}" if self.feature < 0 else feature_name((self.layer, self.feature))


@torch.no_grad()
def pool_residuals(evaluation: Evaluation, layers: Sequence[int]) -> Pooled:
    """Return mean residuals of an evaluation's samples and mean norms of their tokens.

    Text tokens after the image; all text tokens of samples without one.
    """
    subject, count = evaluation.subject, len(evaluation.samples)
    means = {layer: torch.zeros(count, subject.d_model) for layer in layers}
    sums, tokens = dict.fromkeys(layers, 0.0), 0
    for indices, batch in evaluation.batches:
        where = steered_tokens(batch)
        tokens += int(where.sum())
        found = subject.residuals(with_images_at(batch, subject.device), layers)
        for layer, residual in found.items():
            values, mask = residual.float().cpu(), where.cpu()
            sums[layer] += float((values.norm(dim=-1) * mask).sum())
            means[layer][indices] = (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return Pooled(means, {layer: total / tokens for layer, total in sums.items()})


def steered_tokens(batch: Batch) -> Tensor:
    """Mark text tokens after the image, or all text tokens of samples without one."""
    after = text_after_image(batch)
    without = ~after.any(dim=1, keepdim=True)
    return torch.where(without, batch.token_type == TEXT, after)


def caa_vector(
    pooled: Float[Tensor, "samples d_model"], correct: np.ndarray
) -> Float[Tensor, " d_model"] | None:
    """Return the unit vector from wrong to correct samples; None if either kind is missing."""
    right = torch.from_numpy(np.asarray(correct, dtype=bool))
    if right.all() or not right.any():
        return None
    difference = pooled[right].mean(0) - pooled[~right].mean(0)
    return difference / difference.norm()


def caa_directions(vectors: Mapping[int, Tensor], layers: Sequence[int], middle: int) -> Iterator[Direction]:
    """Yield the CAA vector of the middle layer, the baseline, and of every other layer of a feature."""
    yield Direction("caa_middle", middle, NO_FEATURE, 0, vectors[middle])
    for layer in (own for own in layers if own != middle):
        yield Direction("caa", layer, NO_FEATURE, 0, vectors[layer])


def feature_directions(rows: Mapping[Feature, Tensor], vectors: Mapping[int, Tensor]) -> Iterator[Direction]:
    """Yield every feature's decoder row, alone and with the CAA vector of its layer if there is one."""
    for (layer, feature), row in rows.items():
        yield Direction("feature", layer, feature, 0, row.float())
        if layer in vectors:
            yield Direction("caa_feature", layer, feature, 0, vectors[layer] + row.float())


def random_pool(arms: Sequence[Direction], draw: int, seed: int) -> list[Direction]:
    """Return a random direction for each arm, at its layer and of its length.

    Args:
        arms: the named directions.
        draw: number of the pool.
        seed: seed of the job.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "steering", draw))
    pool = []
    for arm in arms:
        vector = torch.randn(arm.vector.shape, generator=generator)
        pool.append(
            Direction("random", arm.layer, NO_FEATURE, draw, vector * (arm.vector.norm() / vector.norm()))
        )
    return pool


@dataclass(frozen=True, eq=False)
class Dose:
    """A direction at one strength, and what validation data say of it.

    Attributes:
        direction: what is added.
        strength: its factor, in units of the mean residual norm at the layer.
        accuracy, margin: change of both on the concept's validation data.
        chosen: whether this is the direction's best strength.
        winner: whether this is the best of all arms, or of its pool.
    """

    direction: Direction
    strength: float
    accuracy: float
    margin: float
    chosen: bool = False
    winner: bool = False

    def columns(self) -> dict[str, Any]:
        """Return its columns of the table STEERING."""
        own = self.direction
        place = {"arm": own.arm, "layer": own.layer, "feature": own.feature, "name": own.name}
        choice = {"strength": self.strength, "chosen": self.chosen, "winner": self.winner}
        validated = {"validation_accuracy": self.accuracy, "validation_margin": self.margin}
        return {**place, "draw": own.draw, **choice, **validated}


@dataclass(frozen=True)
class Steering:
    """Adds `strength * norm * vector` to a block's output at the text tokens after the image.

    It does so where this enters the next block, if there is one: nothing up to there need run again.
    """

    subject: Subject
    direction: Direction
    length: float

    @property
    def first_block(self) -> int:
        """First block that must run again."""
        return min(self.direction.layer + 1, self.subject.n_layers - 1)

    def tokens(self, batch: Batch) -> Bool[Tensor, "samples sequence"]:
        """See `Intervention.tokens`: text tokens after the image."""
        return steered_tokens(batch)

    def at(self, where: Bool[Tensor, "samples tokens"]) -> AbstractContextManager:
        """See `Intervention.at`."""
        shift = self.direction.vector * self.length

        def edit(values: Tensor) -> Tensor:
            return values + (where[..., None].to(values.device) * shift.to(values.device)).to(values.dtype)

        edited = edit_output if self.direction.layer == self.first_block else edit_input
        return edited(self.subject.block(self.first_block), edit)


class Sweep:
    """Questions answered under many directions and strengths."""

    def __init__(self, subject: Subject, questions: QuestionSets, norms: Mapping[int, float]) -> None:
        """Answer them without steering first.

        Args:
            subject: the model.
            questions: target and control.
            norms: mean residual norm of each layer.
        """
        self.subject, self.norms = subject, norms
        self.evaluations = questions.evaluations(subject)
        self.clean = {name: evaluation.answers() for name, evaluation in self.evaluations.items()}

    def answers(self, direction: Direction, strength: float, dataset: str) -> Answers:
        """Answer one data set's questions under a direction."""
        steering = Steering(self.subject, direction, strength * self.norms[direction.layer])
        return self.evaluations[dataset].answers(steering)


def validate(
    sweep: Sweep, directions: Sequence[Direction], strengths: Sequence[float], target: str
) -> list[Dose]:
    """Return every direction at every strength, with the change of accuracy and margin on validation data."""
    clean, found = sweep.clean[target], []
    for direction in progress(directions, "directions"):
        for strength in strengths:
            answers = sweep.answers(direction, strength, target)
            accuracy = float(answers.correct.mean() - clean.correct.mean())
            margin = float((answers.margin - clean.margin).mean())
            found.append(Dose(direction, strength, accuracy, margin))
    return found


def best_dose(doses: Iterable[Dose]) -> Dose:
    """Return the dose of the best validation accuracy, then of the best margin; of equals the first."""
    return max(doses, key=lambda dose: (dose.accuracy, dose.margin))


def named_doses(doses: Sequence[Dose]) -> list[Dose]:
    """Return all doses of the arms: each arm's best strength is chosen, and the best of all wins."""
    arms: dict[tuple[str, str], list[Dose]] = {}
    for dose in doses:
        arms.setdefault((dose.direction.arm, dose.direction.name), []).append(dose)
    chosen = [best_dose(arm) for arm in arms.values()]
    winner = best_dose(chosen)
    return [replace(dose, chosen=dose in chosen, winner=dose is winner) for dose in doses]


def pool_winners(doses: Sequence[Dose]) -> list[Dose]:
    """Return the best dose of each pool of random directions, found as that of the arms is."""
    pools: dict[int, list[Dose]] = {}
    for dose in doses:
        pools.setdefault(dose.direction.draw, []).append(dose)
    return [replace(best_dose(pool), chosen=True, winner=True) for pool in pools.values()]


def steering_rows(sweep: Sweep, doses: Sequence[Dose], resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table STEERING, concept and model aside.

    Args:
        sweep: the test data.
        doses: what is added to the residual stream.
        resamples: resamples of the paired bootstrap.
        seed: seed of the job.
    """
    effects = {
        name: EffectTable(name, evaluation.samples, sweep.clean[name], resamples, seed)
        for name, evaluation in sweep.evaluations.items()
    }
    for dose in progress(doses, "directions and strengths"):
        for name, table in effects.items():
            answers = sweep.answers(dose.direction, dose.strength, name)
            yield from ({**dose.columns(), **row} for row in table.rows(answers))


def learn(
    subject: Subject, validation: QuestionSets, rows: Mapping[Feature, Tensor]
) -> tuple[Sweep, list[Direction]]:
    """Return the validation data ready to be steered, and all directions but the random ones.

    Args:
        subject: the model.
        validation: its questions.
        rows: unit decoder rows of the features.
    """
    own, middle = sorted({layer for layer, _ in rows}), subject.n_layers // 2
    sweep, target = Sweep(subject, validation, {}), validation.names[0]
    pooled = pool_residuals(sweep.evaluations[target], sorted({*own, middle}))
    sweep.norms, correct = pooled.norms, sweep.clean[target].correct
    vectors = {layer: caa_vector(means, correct) for layer, means in pooled.means.items()}
    vectors = {layer: vector for layer, vector in vectors.items() if vector is not None}
    directions = list(feature_directions(rows, vectors))
    if vectors:
        return sweep, [*caa_directions(vectors, own, middle), *directions]
    log.warning(
        "model '%s' answers %s of the validation data of '%s': there is no CAA vector; steer a model that "
        "answers some right and some wrong (steering.model)",
        subject.name,
        "all" if correct.all() else "none",
        target,
    )
    return sweep, directions


def evaluate_steering(
    model: ModelFiles,
    validation: QuestionSets,
    test: QuestionSets,
    dictionaries: Sequence[str],
    ranking: str,
    output: str,
    *,
    layers: Sequence[int],
    concept: str,
    features: int,
    strengths: Sequence[float],
    random_draws: int,
    bootstrap: int,
    seed: int,
) -> None:
    """Steer a model by CAA vectors, features and random directions, and write the table STEERING.

    Vectors, each arm's best strength and the best arm come from validation data, results from test data. So
    do the best strength and direction of each pool of random directions.

    Args:
        model: the model that is steered.
        validation, test: questions of the concept beside general ones.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        ranking: ranking.csv of the concept.
        output: where to write the table.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        features: how many of the best-ranked features.
        strengths: lengths of what is added, in units of the mean residual norm.
        random_draws: pools of random directions.
        bootstrap: resamples of the paired bootstrap.
        seed: seed of the job.
    """
    ranked = ranked_features(ranking, features)
    rows: list[dict[str, Any]] = []
    if not ranked:
        log.warning("concept '%s' has no ranked features: nothing to steer by", concept)
    else:
        subject = model.load()
        directions = unit_directions(dictionary_folders(dictionaries, layers), ranked)
        check_directions(subject, directions)
        learned, arms = learn(subject, validation, directions)
        target = validation.names[0]
        named = named_doses(validate(learned, arms, strengths, target))
        pools = [one for draw in range(random_draws) for one in random_pool(arms, draw, seed)]
        winners = pool_winners(validate(learned, pools, strengths, target))
        rows = list(steering_rows(Sweep(subject, test, learned.norms), [*named, *winners], bootstrap, seed))
    names = [name for name in STEERING.names if name not in ("concept", "model")]
    write_table(table_of(rows, names).assign(concept=concept, model=model.name), STEERING, output)

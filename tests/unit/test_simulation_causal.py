"""Claims about heads and steering on data without any effect; only what a model would answer is drawn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from claims_on_nothing import at_most_one_in_twenty

from vlmdiff.data.samples import Sample
from vlmdiff.heads.aggregate import head_scores, mean_share
from vlmdiff.heads.agreement import agreement
from vlmdiff.heads.head_arms import ablation_rows, head_arms
from vlmdiff.heads.tracing import top_and_random
from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.steering import (
    caa_directions,
    feature_directions,
    named_doses,
    pool_winners,
    random_pool,
    steering_rows,
    validate,
)
from vlmdiff.summary.confidence import describe_steering
from vlmdiff.summary.heads import describe_heads
from vlmdiff.summary.sections import Section
from vlmdiff.tables.causal import HEAD_ABLATION, HEAD_AGREEMENT, HEAD_ATTRIBUTION, STEERING
from vlmdiff.tables.io import conform

DATA = TARGET, CONTROL = "space", "other"
# Forty statements without repeated texts; one group, so that no row is made that no claim reads.
QUESTIONS = [Sample(sample_id=str(i), prompt=f"text {i}", group="all") for i in range(40)]
BLOCKS, HEADS = 5, 6


def held(rows: pd.DataFrame, contract, **columns) -> pd.DataFrame:
    """Return a table as its contract has it."""
    return conform(rows.assign(concept="c", **columns), contract, contract.names[0]).to_pandas()


def attribution_of(rng: np.random.Generator) -> pd.DataFrame:
    """Attribute six features to all heads that they can see; A and B are alike, as they are in models."""
    rows = []
    for feature in range(6):
        layer = 2 + feature % 3
        size = rng.lognormal(size=(layer + 1, HEADS))
        for (at, head), value in np.ndenumerate(size):
            place = {"feature_layer": layer, "feature": feature, "name": f"L{layer}F{feature}"}
            methods = {f"method_{name}": value * rng.lognormal(sigma=0.2) for name in "ab"}
            rows.append({**place, "layer": at, "head": head, **methods, "signed": value})
    table = pd.DataFrame(rows)
    return held(table, HEAD_ATTRIBUTION, score=mean_share(table))


class Evaluated:
    """Questions whose margins change by a draw for each head, around its effect."""

    def __init__(self, rng: np.random.Generator, effect: dict, noise: float) -> None:
        self.samples = QUESTIONS
        self.clean = rng.normal(4, 1, len(QUESTIONS))
        self.change = {head: mean + noise * rng.normal(size=len(QUESTIONS)) for head, mean in effect.items()}

    def answers(self, ablation=None, first_block: int = 0) -> Answers:
        """Answer with the heads of an ablation removed."""
        change = sum(self.change[head] for head in ablation.heads) if ablation else 0.0
        return Answers(self.clean + change)


def claims_of_heads(scores: pd.DataFrame, agreed: pd.DataFrame, ablation: pd.DataFrame) -> bool:
    """Return whether the summary's only claim about heads holds."""
    tables = (one.assign(concept="c", seed=0) for one in (scores, agreed, ablation))
    section = describe_heads(*tables, DATA)
    assert (section.claims, section.untestable) == (1, [])
    return not section.failed


NO_ABLATION = HEAD_ABLATION.empty_table().to_pandas()
NO_AGREEMENT = HEAD_AGREEMENT.empty_table().to_pandas()


def agrees(rng: np.random.Generator, likeness: float) -> bool:
    """Return whether the summary says that scores agree with exact effects.

    Args:
        rng: random numbers.
        likeness: how far exact effects on features follow the attribution; 0 not at all.
    """
    attribution = attribution_of(rng)
    chosen = top_and_random(attribution, 8, int(rng.integers(2**31)))
    places = list(zip(attribution["layer"], attribution["head"]))
    exact = attribution["method_a"] ** likeness * rng.lognormal(size=len(places)) ** (1 - likeness)
    patching = attribution[["concept", "feature_layer", "feature", "name", "layer", "head"]].assign(
        exact=-exact, exact_abs=exact, weight=[chosen.get(place, np.nan) for place in places]
    )
    agreed = pd.DataFrame(agreement(attribution, patching.dropna(), 100, 0))
    return claims_of_heads(head_scores(attribution), held(agreed, HEAD_AGREEMENT), NO_ABLATION)


@pytest.mark.long
def test_random_scores_do_not_agree():
    """They must reach a correlation of 0.7 as well: an interval above 0 is not enough."""
    rng = np.random.default_rng(11)
    at_most_one_in_twenty(sum(agrees(rng, 0.0) for _ in range(200)), 200)


@pytest.mark.long
def test_scores_that_are_right_agree():
    rng = np.random.default_rng(12)
    assert sum(agrees(rng, 0.8) for _ in range(40)) / 40 > 0.8


def heads_specific(rng: np.random.Generator, benefit: float) -> bool:
    """Return whether the summary calls the top heads specific.

    Removing any head hurts the target and spares the control, and late heads hurt it more.

    Args:
        rng: random numbers.
        benefit: by how much more the heads of the best scores hurt.
    """
    scores = head_scores(attribution_of(rng))
    order = list(zip(scores["layer"].astype(int), scores["head"].astype(int)))
    hurt = {head: -rng.exponential(0.2) - 0.1 * head[0] for head in order}
    hurt |= {head: hurt[head] - benefit for head in order[:3]}
    sets = {TARGET: Evaluated(rng, hurt, 0.1), CONTROL: Evaluated(rng, dict.fromkeys(order, 0.0), 0.05)}
    # Three heads of one block have 19 other sets, which is enough: the claim is always made.
    arms = list(head_arms(order, [3], 20, int(rng.integers(2**31))))
    ablations = [SimpleNamespace(heads=arm.heads, first_block=0) for arm in arms]
    rows = pd.DataFrame(list(ablation_rows(sets, arms, ablations, 200, 0)))
    return claims_of_heads(scores, NO_AGREEMENT, held(rows, HEAD_ABLATION))


@pytest.mark.long
def test_heads_of_random_scores_are_not_specific():
    rng = np.random.default_rng(2)
    at_most_one_in_twenty(sum(heads_specific(rng, 0.0) for _ in range(400)), 400)


def test_heads_that_do_more_are_found():
    rng = np.random.default_rng(3)
    assert sum(heads_specific(rng, 0.8) for _ in range(40)) / 40 > 0.8


class Steered:
    """Questions of a model in which adding a vector changes margins in proportion to the vector.

    What a direction does to the mean is the same on validation and test data: some directions do help.
    """

    def __init__(self, rng: np.random.Generator, ways: dict[int, np.ndarray]) -> None:
        """Draw answers, about half of them right.

        Args:
            rng: random numbers.
            ways: for each layer, what each dimension does to the mean margin, (d_model,).
        """
        self.evaluations = {name: SimpleNamespace(samples=QUESTIONS) for name in DATA}
        self.clean = {name: Answers(rng.normal(size=len(QUESTIONS))) for name in DATA}
        self.ways = {
            (name, layer): way + rng.normal(size=(len(QUESTIONS), len(way)))
            for layer, way in ways.items()
            for name in DATA
        }

    def answers(self, direction, strength: float, dataset: str) -> Answers:
        """Answer one data set under a direction."""
        change = self.ways[dataset, direction.layer] @ direction.vector.numpy()
        return Answers(self.clean[dataset].margin + strength * change)


def helps(rng: np.random.Generator, benefit: float, shared: float = 1.0) -> bool:
    """Return whether the summary says that the best arm helps.

    Args:
        rng: random numbers.
        benefit: how far the CAA vectors point where the mean margin grows.
        shared: length of what directions do to the mean margin; 0: they only scatter answers.
    """
    width, layers = 16, (1, 2)
    ways = {layer: shared * rng.normal(size=width) / np.sqrt(width) for layer in layers}

    def vector(toward: np.ndarray) -> torch.Tensor:
        drawn = torch.from_numpy(rng.normal(size=width) / np.sqrt(width) + toward).float()
        return drawn / drawn.norm()

    vectors = {layer: vector(benefit * way) for layer, way in ways.items()}
    features = {(layer, 7): vector(np.zeros(width)) for layer in layers}
    arms = [*caa_directions(vectors, layers, 1), *feature_directions(features, vectors)]
    seed, strengths = int(rng.integers(2**31)), (-0.5, 0.5, 1.0)
    learned, test = Steered(rng, ways), Steered(rng, ways)
    named = named_doses(validate(learned, arms, strengths, TARGET))
    pools = [one for draw in range(20) for one in random_pool(arms, draw, seed)]
    winners = pool_winners(validate(learned, pools, strengths, TARGET))
    # Arms that did not win stand in the table too; no claim reads what they do to test data.
    best = [dose for dose in named if dose.winner]
    rows = pd.DataFrame(list(steering_rows(test, [*best, *winners], 200, 0)))
    section = Section("")
    describe_steering(section, held(rows, STEERING, model="vlm"), DATA)
    assert section.claims == 1
    return not section.failed


@pytest.mark.long
def test_the_best_of_many_arms_does_not_help_more_than_random_directions():
    """Some of all directions really help: only the pools can tell that these arms are no better."""
    rng = np.random.default_rng(4)
    at_most_one_in_twenty(sum(helps(rng, 0.0) for _ in range(400)), 400)


def test_an_arm_that_points_where_answers_grow_right_is_found():
    rng = np.random.default_rng(5)
    assert sum(helps(rng, 2.0, 2.0) for _ in range(40)) / 40 > 0.8

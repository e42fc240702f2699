"""Does the summary find what is not there? Data without any effect go through the pipeline's own functions.

Everything that decides is real: matching, pools, ranking, intervals, contracts, verdicts. Only what a model
would answer is drawn at random.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claims_on_nothing import at_most_one_in_twenty

from vlmdiff.data.samples import Sample
from vlmdiff.interventions.ablation_arms import head, pool_arms, selected_arms
from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.matching import MatchedFeatures, pools
from vlmdiff.interventions.ranking import ranking_order, shortlist, specificity
from vlmdiff.summary.causal import Headline, describe_ablation

TARGET, CONTROL = "space", "other"
HEADLINE = Headline("c", "all_layers", 5, "margin", ("c",), ("all_layers",), (5,), 1)
LAYERS, WIDTH, CANDIDATES, SAMPLES = 2, 70, 24, 60
# Sixty statements by 30 texts: samples of one text change alike.
QUESTIONS = [Sample(sample_id=str(i), prompt=f"text {i % 30}", group="g") for i in range(SAMPLES)]


class Ablations:
    """What removing features does to every sample: additive, different on every set of questions."""

    def __init__(self, rng: np.random.Generator, gain: np.ndarray):
        """Draw effects; a feature's mean on the target is -gain, on the control 0.

        Args:
            rng: random numbers.
            gain: by feature, (layers x width).
        """
        self.clean = {role: Answers(rng.normal(4, 1, SAMPLES)) for role in (TARGET, CONTROL)}
        text = rng.normal(size=(len(gain), 30))[:, np.arange(SAMPLES) % 30]
        own = rng.normal(size=(2, len(gain), SAMPLES))
        self.change = {
            TARGET: -gain[:, None] + 0.1 * text + 0.1 * own[0],
            CONTROL: 0.05 * own[1],
        }

    def of(self, features, role: str) -> np.ndarray:
        """Return the change of the margin of each sample."""
        rows = [layer * WIDTH + index for layer, index in features]
        return self.change[role][rows].sum(axis=0)


def best_of(features, validation: Ablations, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Rank a set on validation data, as `rank_features` does, and return its first five."""
    means = {
        role: np.array([validation.of([one], role).mean() for one in features]) for role in (TARGET, CONTROL)
    }
    estimated = specificity(*(values + rng.normal(0, 0.05, len(features)) for values in means.values()))
    measured = np.full(len(features), np.nan)
    chosen = shortlist(estimated, 8)
    measured[chosen] = specificity(*means.values())[chosen]
    return [features[place] for place in ranking_order(measured, estimated)[:5]]


def one_seed(rng: np.random.Generator, benefit: float) -> pd.DataFrame:
    """Rank candidates and pools on validation data, and return ABLATION of their best on test data."""
    activity = pd.DataFrame(
        {"layer": np.repeat(range(LAYERS), WIDTH), "feature": np.tile(range(WIDTH), LAYERS)}
    ).assign(rate=rng.uniform(0.01, 0.5, LAYERS * WIDTH))
    activity["energy"] = activity["rate"] * rng.lognormal(size=len(activity))
    rows = rng.choice(LAYERS * WIDTH, CANDIDATES, replace=False)
    candidates = [(int(row) // WIDTH, int(row) % WIDTH) for row in rows]
    gain = rng.exponential(0.2, LAYERS * WIDTH)
    gain[rows] += benefit
    validation, test = Ablations(rng, gain), Ablations(rng, gain)
    matched = MatchedFeatures(activity, candidates)
    candidates = matched.testable(candidates)
    sets = [candidates, *pools(matched.strata(candidates, rng), 20, rng)]
    best = [best_of(one, validation, rng) for one in sets]
    arms = [*selected_arms(best[0], 0, [5]), *(arm for arm in pool_arms(best[1:], [5]) if arm.size == 5)]
    rows_of = []
    for role in (TARGET, CONTROL):
        effects = EffectTable(role, QUESTIONS, test.clean[role], 200, 0)
        for arm in arms:
            edited = Answers(test.clean[role].margin + test.of(arm.features, role))
            rows_of.append(
                {**head(arm), "rate": 0.1, "energy": 1.0, "removed": 0.01, **next(effects.rows(edited))}
            )
    return pd.DataFrame(rows_of)


def specific(rng: np.random.Generator, benefit: float) -> bool:
    """Return whether the summary calls the headline specific."""
    ablation = one_seed(rng, benefit).assign(seed=0, concept="c", scope="all_layers")
    return not describe_ablation(ablation, HEADLINE, (TARGET, CONTROL)).failed


@pytest.mark.long
def test_candidates_that_are_like_any_feature_are_not_called_specific():
    """Removing any feature hurts the target and spares the control: only the pools can tell."""
    rng = np.random.default_rng(0)
    at_most_one_in_twenty(sum(specific(rng, 0.0) for _ in range(600)), 600)


@pytest.mark.long
@pytest.mark.parametrize("benefit, least", [(0.6, 0.8)])
def test_candidates_that_do_more_are_found(benefit, least):
    rng = np.random.default_rng(1)
    assert sum(specific(rng, benefit) for _ in range(40)) / 40 > least

"""Does the summary find what is not there? Data without any effect go through the pipeline's own functions.

Everything that decides is real: matching, pools, ranking, intervals, contracts, verdicts. Only what a model
would answer is drawn at random.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from vlmdiff.data.samples import Sample
from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.matching import FEATURE, MatchedFeatures, pools
from vlmdiff.interventions.ranking import ranked, shortlisted
from vlmdiff.interventions.report import head, random_arms, selected_arms
from vlmdiff.summary.causal import Headline, describe_ablation

TARGET, CONTROL = "space", "other"
HEADLINE = Headline("c", "all_layers", 5, "margin", ("c",), ("all_layers",), (5,), 2)
LAYERS, WIDTH, CANDIDATES, SAMPLES = 2, 70, 24, 60
# Sixty statements by 30 texts: samples of one text change alike.
QUESTIONS = [Sample(sample_id=str(i), prompt=f"text {i % 30}", group="g") for i in range(SAMPLES)]


def at_most_one_in_twenty(hits: int, repetitions: int) -> None:
    """Hold a rate of false claims against 5 %: the Clopper-Pearson interval must end below 8 %."""
    interval = binomtest(hits, repetitions).proportion_ci(0.95, method="exact")
    assert interval.high < 0.08, f"{hits} of {repetitions} claims on nothing"


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


def measured(ablations: Ablations, features, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return estimates (the truth with noise) and measurements on validation data."""
    index = pd.MultiIndex.from_tuples(features, names=FEATURE)
    means = {
        role: np.array([ablations.of([feature], name).mean() for feature in features])
        for role, name in (("target", TARGET), ("control", CONTROL))
    }
    noise = {role: value + rng.normal(0, 0.05, len(features)) for role, value in means.items()}
    exact = {f"{role}_delta_margin": value for role, value in means.items()}
    return (
        pd.DataFrame({f"{role}_estimate": value for role, value in noise.items()}, index=index),
        pd.DataFrame(exact | {f"{role}_delta_accuracy": 0.0 for role in means}, index=index),
    )


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
    estimates, exact = measured(validation, sorted({one for each in sets for one in each}), rng)
    rankings = [ranked(estimates.join(exact.loc[shortlisted(estimates, one, 8)]), one) for one in sets]
    best = [list(map(tuple, one[FEATURE].to_numpy()[:5])) for one in rankings]
    arms = [*selected_arms(best[0], 0, [5]), *(arm for arm in random_arms(best[1:], [5]) if arm.size == 5)]
    effects = {role: EffectTable(role, QUESTIONS, test.clean[role], 200, 0) for role in (TARGET, CONTROL)}
    return pd.DataFrame(
        {**head(arm), "rate": 0.1, "energy": 1.0, "removed": 0.01, **row}
        for arm in arms
        for role, one in effects.items()
        for row in one.rows(Answers(test.clean[role].margin + test.of(arm.features, role)))
        if row["group"] == "all"
    )


def specific(rng: np.random.Generator, benefit: float) -> bool:
    """Return whether the summary calls the headline specific."""
    seeds = [one_seed(rng, benefit).assign(seed=seed) for seed in range(HEADLINE.seeds)]
    ablation = pd.concat(seeds, ignore_index=True).assign(concept="c", scope="all_layers")
    return not describe_ablation(ablation, HEADLINE, (TARGET, CONTROL)).failed


def test_candidates_that_are_like_any_feature_are_not_called_specific():
    """Removing any feature hurts the target and spares the control: only the pools can tell."""
    rng = np.random.default_rng(0)
    at_most_one_in_twenty(sum(specific(rng, 0.0) for _ in range(400)), 400)


@pytest.mark.parametrize("benefit, least", [(0.6, 0.8)])
def test_candidates_that_do_more_are_found(benefit, least):
    rng = np.random.default_rng(1)
    assert sum(specific(rng, benefit) for _ in range(40)) / 40 > least

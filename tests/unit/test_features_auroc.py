"""Areas under the ROC curve against scipy, their intervals against the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from vlmdiff.features.auroc import auroc, delong_interval


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 60))
def test_areas_are_mann_whitneys(seed, n):
    rng = np.random.default_rng(seed)
    activations = rng.integers(0, 4, (n, 3)).astype(float)  # many ties
    labels = rng.random((n, 2)) < 0.5
    labels[:2] = [[True, False], [False, True]]
    labels[2:4] = ~labels[:2]
    found = auroc(activations, labels)
    for i in range(2):
        for j in range(3):
            above, below = activations[labels[:, i], j], activations[~labels[:, i], j]
            expected = mannwhitneyu(above, below).statistic / (len(above) * len(below))
            assert found[i, j] == pytest.approx(expected, abs=1e-12)


def test_a_feature_that_is_the_label_has_area_one():
    label = np.array([True, False, True, False])
    assert auroc(label[:, None].astype(float), label[:, None])[0, 0] == 1.0
    assert auroc(-label[:, None].astype(float), label[:, None])[0, 0] == 0.0
    assert auroc(np.zeros((4, 1)), label[:, None])[0, 0] == 0.5


def test_a_label_with_one_value_has_no_area():
    assert np.isnan(auroc(np.ones((3, 1)), np.ones((3, 1), bool)))[0, 0]


def test_delongs_interval_is_the_bootstraps():
    rng = np.random.default_rng(0)
    label = rng.random(400) < 0.4
    activation = np.maximum(rng.normal(size=400) + 0.8 * label, 0)  # a feature is often silent
    low, high = delong_interval(activation, label)
    draws = []
    for _ in range(2000):
        parts = [np.flatnonzero(label == value) for value in (False, True)]
        rows = np.concatenate([rng.choice(part, len(part)) for part in parts])
        draws.append(auroc(activation[rows, None], label[rows, None])[0, 0])
    expected = np.percentile(draws, [2.5, 97.5])
    np.testing.assert_allclose([low, high], expected, atol=0.01)
    assert low < auroc(activation[:, None], label[:, None])[0, 0] < high


def test_delongs_interval_pair_by_pair():
    above, below = np.array([0.0, 2.0, 3.0, 3.0, 5.0]), np.array([0.0, 0.0, 1.0, 3.0])
    wins = (above[:, None] > below).astype(float) + 0.5 * (above[:, None] == below)
    variance = wins.mean(1).var(ddof=1) / 5 + wins.mean(0).var(ddof=1) / 4
    label = np.array([True] * 5 + [False] * 4)
    low, high = delong_interval(np.concatenate([above, below]), label, level=0.8)
    half = 1.2815515655446004 * np.sqrt(variance)
    assert (low, high) == pytest.approx((wins.mean() - half, wins.mean() + half))


def test_an_interval_ends_at_zero_and_one():
    label = np.array([True] * 4 + [False] * 4)
    activation = np.array([1.5, 3.0, 4.0, 5.0, 0.0, 0.5, 1.0, 2.0])
    assert delong_interval(activation, label)[1] == 1.0
    assert delong_interval(-activation, label)[0] == 0.0


def test_too_few_samples_have_no_interval():
    assert np.isnan(delong_interval(np.array([1.0, 2.0]), np.array([True, False]))).all()

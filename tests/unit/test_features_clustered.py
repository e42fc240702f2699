"""The clustered test: textbook formulas, calibration under a null with dependent tokens, no underflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.stats import fisher_exact
from scipy.stats import t as student

from vlmdiff.features.clustered import ClusterSums, clustered_test, log_t_tail


def sums(fires: np.ndarray, units: np.ndarray) -> ClusterSums:
    """From samples x features firings and the units of each sample."""
    return ClusterSums(
        fires.sum(0),
        np.full(fires.shape[1], units.sum()),
        (fires**2).sum(0),
        (fires * units[:, None]).sum(0),
        np.full(fires.shape[1], (units**2).sum()),
        np.full(fires.shape[1], len(units)),
        (fires > 0).sum(0),
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_the_variance_is_that_of_a_ratio_of_sums(seed, samples):
    rng = np.random.default_rng(seed)
    units = rng.integers(1, 20, samples)
    fires = rng.binomial(units[:, None], 0.3, (samples, 4))
    found, p = sums(fires, units), fires.sum(0) / units.sum()
    residual = fires - p * units[:, None]
    expected = samples / (samples - 1) * (residual**2).sum(0) / units.sum() ** 2
    np.testing.assert_allclose(found.variance, expected, rtol=1e-9, atol=1e-15)


def test_samples_of_one_unit_have_no_design_effect():
    rng = np.random.default_rng(0)
    fires = rng.integers(0, 2, (2000, 3))
    _, effect = clustered_test(sums(fires[:1000], np.ones(1000, int)), sums(fires[1000:], np.ones(1000, int)))
    np.testing.assert_allclose(effect, 1000 / 999, rtol=1e-9)


def test_it_keeps_its_level_where_fishers_test_does_not():
    """Firings come in bursts: all of a sample's tokens or none. Nothing differs between the sets."""
    rng = np.random.default_rng(1)
    features, samples, length = 400, 200, 20
    units = np.full(samples, length)
    sets = [length * rng.binomial(1, 0.2, (samples, features)) for _ in range(2)]
    log_p, effect = clustered_test(*(sums(fires, units) for fires in sets))
    rate = (log_p <= np.log(0.05)).mean()
    # Binomial 99.9 % interval of 400 tests at level 0.05.
    assert 0.015 <= rate <= 0.09
    assert np.median(effect) == pytest.approx(length, rel=0.05)
    total = samples * length
    naive = [
        fisher_exact([[a, total - a], [b, total - b]], alternative="greater").pvalue
        for a, b in zip(*(fires.sum(0) for fires in sets))
    ]
    assert (np.array(naive) <= 0.05).mean() > 0.25


def test_a_real_difference_is_found():
    rng = np.random.default_rng(2)
    units = np.full(300, 10)
    target, baseline = rng.binomial(10, 0.3, (300, 5)), rng.binomial(10, 0.1, (300, 5))
    log_p, _ = clustered_test(sums(target, units), sums(baseline, units))
    assert (log_p < np.log(1e-20)).all()


def test_few_samples_are_never_certain():
    """All firings in two samples of a thousand: the p of independent tokens would be 1e-12."""
    units = np.full(1000, 20)
    target = np.zeros((1000, 1), int)
    target[:2] = 20
    log_p, effect = clustered_test(sums(target, units), sums(np.zeros((1000, 1), int), units))
    assert log_p[0] > np.log(0.05)
    assert effect[0] > 15


def test_what_never_varies_is_no_evidence():
    units = np.full(10, 3)
    silent = sums(np.zeros((10, 1), int), units)
    log_p, effect = clustered_test(silent, silent)
    assert log_p[0] == 0
    assert np.isnan(effect[0])


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 1000])
@pytest.mark.parametrize("t", [-3.0, 0.0, 0.5, 2.0, 6.0, 20.0])
def test_the_tail_is_students(t, freedom):
    found = np.exp(log_t_tail(np.array([t]), np.array([freedom])))[0]
    assert found == pytest.approx(student.sf(t, freedom), rel=1e-9)


def test_the_tail_does_not_underflow():
    found = log_t_tail(np.array([1e3]), np.array([10**6]))[0]
    assert -np.inf < found < -3e5


@pytest.mark.parametrize("freedom", [60, 300, 10**4])
def test_beyond_the_range_of_floats_it_is_right_to_one_per_cent(freedom):
    t = next(t for t in 1.1 ** np.arange(200) if student.sf(t, freedom) < 1e-300)
    exact = float(
        mp.log(mp.betainc(freedom / 2, 0.5, 0, freedom / (freedom + mp.mpf(t) ** 2), regularized=True) / 2)
    )
    assert log_t_tail(np.array([t]), np.array([freedom]))[0] == pytest.approx(exact, rel=1e-2)

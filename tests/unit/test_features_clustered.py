"""The clustered test: textbook formulas, calibration under a null with dependent tokens, no underflow."""

from __future__ import annotations

import itertools
from fractions import Fraction

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


@pytest.mark.parametrize(("in_target", "in_baseline"), [(10, 1000), (1000, 10), (30, 300)])
def test_it_keeps_its_level_where_one_set_is_small(in_target, in_baseline):
    """A few samples often fire all alike, and then show no spread of their own."""
    rng = np.random.default_rng(3)
    features, sides = 2000, []
    for samples in (in_target, in_baseline):
        units = rng.integers(5, 30, samples)
        sides.append(sums(units[:, None] * rng.binomial(1, 0.5, (samples, features)), units))
    log_p, _ = clustered_test(*sides)
    for level in (0.05, 0.001):
        # Ten lengths are not those of all samples: a half above it, and three standard errors.
        assert (log_p <= np.log(level)).mean() <= 1.5 * level + 3 * np.sqrt(level / features)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(2)
    units = np.full(300, 10)
    target, baseline = rng.binomial(10, 0.3, (300, 5)), rng.binomial(10, 0.1, (300, 5))
    log_p, _ = clustered_test(sums(target, units), sums(baseline, units))
    assert (log_p < np.log(1e-20)).all()


def permuted_p(fires: np.ndarray, units: np.ndarray, n_target: int) -> float:
    """Share of all assignments of samples to the target that give it no smaller a difference: no formula."""
    samples = range(len(units))

    def difference(chosen: tuple[int, ...]) -> Fraction:
        rest = [i for i in samples if i not in chosen]
        one, two = (
            Fraction(int(fires[list(part)].sum()), int(units[list(part)].sum())) for part in (chosen, rest)
        )
        return one - two

    observed = difference(tuple(range(n_target)))
    found = [difference(chosen) >= observed for chosen in itertools.combinations(samples, n_target)]
    return sum(found) / len(found)


def log_p_of(target: list[int], baseline: list[int], units: int) -> float:
    """Return the p of samples with these firings, each of `units` tokens."""
    sides = [sums(np.array(part)[:, None], np.full(len(part), units)) for part in (target, baseline)]
    return clustered_test(*sides)[0][0]


@pytest.mark.parametrize(
    ("target", "baseline", "expected"),
    [
        # Every token of every target sample, none of the baseline's: one of C(7, 3) assignments.
        ([4, 4, 4], [0, 0, 0, 0], 1 / 35),
        # Half of each target sample, a quarter of each baseline sample: as certain, and no more.
        ([2, 2, 2], [1, 1, 1, 1], 1 / 35),
        ([1, 1, 1], [2, 2, 2, 2], 1.0),
        ([0, 0, 0], [4, 4, 4, 4], 1.0),
        # It fires on all tokens of both, or on none: nothing differs.
        ([4, 4, 4], [4, 4, 4, 4], 1.0),
        ([0, 0, 0], [0, 0, 0, 0], 1.0),
        # One sample a side; one against several.
        ([4], [0], 1 / 2),
        ([0], [4], 1.0),
        ([4], [0, 0, 0, 0], 1 / 5),
        ([4, 4, 4], [0], 1 / 4),
        # The baseline never fires, the target in two of three: both of the two are the target's.
        ([4, 1, 0], [0, 0, 0, 0], 3 / 21),
        ([0, 0, 0], [4, 1, 0, 0], 1.0),
    ],
)
def test_where_samples_decide_the_p_is_exact(target, baseline, expected):
    fires, units = np.array(target + baseline), np.full(len(target) + len(baseline), 4)
    assert permuted_p(fires, units, len(target)) == pytest.approx(expected)
    assert np.exp(log_p_of(target, baseline, units=4)) == pytest.approx(expected, rel=1e-12)


def test_firing_everywhere_against_nowhere_is_fishers_test_over_samples():
    found = log_p_of([20] * 30, [0] * 50, units=20)
    assert np.exp(found) == pytest.approx(
        fisher_exact([[30, 0], [0, 50]], alternative="greater").pvalue, rel=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_samples_of_one_unit_are_fishers_tables(seed):
    rng = np.random.default_rng(seed)
    sides = [rng.integers(0, 2, rng.integers(1, 40)) for _ in range(2)]
    table = [[part.sum(), len(part) - part.sum()] for part in sides]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert np.exp(log_p_of(*map(list, sides), units=1)) == pytest.approx(expected, rel=1e-9)


def test_ten_samples_that_all_fire_are_no_more_than_ten():
    """Half of a thousand baseline samples fire too: ten fire by chance once in a thousand times."""
    exact = fisher_exact([[10, 0], [500, 500]], alternative="greater").pvalue
    found = log_p_of([20] * 10, [20] * 500 + [0] * 500, units=20)
    assert np.log(exact / 4) < found < np.log(exact * 4)
    # A thousand fire half of the time, ten never do: the other way round is the same.
    exact = fisher_exact([[500, 500], [0, 10]], alternative="greater").pvalue
    assert log_p_of([20] * 500 + [0] * 500, [0] * 10, units=20) == pytest.approx(np.log(exact), rel=1e-9)


def test_no_p_is_below_that_of_the_assignment_itself():
    """Two samples against two, as far apart as may be: one of six assignments, whatever Student says."""
    fires = np.array([20, 19, 0, 1])
    assert permuted_p(fires, np.full(4, 20), 2) == pytest.approx(1 / 6)
    assert np.exp(log_p_of([20, 19], [0, 1], units=20)) == pytest.approx(1 / 6)


def test_few_samples_are_never_certain():
    """All firings in two samples of a thousand: the p of independent tokens would be 1e-12."""
    units = np.full(1000, 20)
    target = np.zeros((1000, 1), int)
    target[:2] = 20
    silent = sums(np.zeros((1000, 1), int), units)
    log_p, effect = clustered_test(sums(target, units), silent)
    # Both samples are in the target: C(1000, 2) of C(2000, 2) ways.
    assert np.exp(log_p[0]) == pytest.approx(999 / (2 * 1999), rel=1e-9)
    assert effect[0] > 15
    one = np.zeros((1000, 1), int)
    one[0] = 1
    log_p, _ = clustered_test(sums(target, units), sums(one, units))
    assert log_p[0] > np.log(0.05)


def test_what_never_varies_has_no_design_effect():
    _, effect = clustered_test(*(sums(np.full((10, 1), x), np.full(10, 3)) for x in (3, 0)))
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

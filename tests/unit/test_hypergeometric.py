"""Log tails against 50-digit arithmetic, scipy, and their own symmetries."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, hypergeom

from vlmdiff.hypergeometric.elementary import exponential, log_ratio
from vlmdiff.hypergeometric.log_tail import LARGEST_TOTAL, log_tail
from vlmdiff.hypergeometric.loops import deviance, root, stirling
from vlmdiff.hypergeometric.tail_sums import gram_rule, quadrature, series, tail_length

DIGITS = 50


def exact_upper(a, b, c, d):
    """Log of P(X >= a), by its own ratios in 50 digits; accurate where the tail is not near 1."""
    cells = [mp.loggamma(n + 1) for n in (a + b, c + d, a + c, b + d)]
    point = sum(cells) - sum(mp.loggamma(n + 1) for n in (a + b + c + d, a, b, c, d))
    term = total = mp.mpf(1)
    while term > total * mp.mpf(10) ** -40:
        term *= mp.mpf(b * c) / ((a + 1) * (d + 1))
        total += term
        a, b, c, d = a + 1, b - 1, c - 1, d + 1
    return point + mp.log(total)


def exact(a, b, c, d):
    """Log p by whichever tail is the short one."""
    if min(a, d) == 0:
        return mp.mpf(0)
    if a * d >= b * c and (upper := exact_upper(a, b, c, d)) < -0.5:
        return upper
    return mp.log1p(-mp.exp(exact_upper(b + 1, a - 1, d - 1, c + 1)))


def worst_error(tables):
    """Largest relative error of log p over tables with p < 1."""
    found = log_tail(*np.array(tables).T)
    with mp.workdps(DIGITS):
        errors = [0.0]
        for table, log_p in zip(tables, found):
            truth = exact(*table)
            if abs(truth) < mp.mpf(10) ** -300:
                assert log_p == 0 or truth != 0
            else:
                errors.append(float(abs(mp.mpf(float(log_p)) / truth - 1)))
    return max(errors)


def random_tables(seed, count, largest):
    """Tables whose totals, rates and odds vary over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    n1, n2 = (
        (10 ** rng.uniform(0, largest, count)).astype(int),
        (10 ** rng.uniform(0, largest, count)).astype(int),
    )
    rate = 10 ** rng.uniform(-5, 0, count)
    odds = np.exp(rng.normal(size=count) * rng.choice([0.01, 0.1, 0.5, 2], count))
    a, c = rng.binomial(n1, np.minimum(1, rate * odds)), rng.binomial(n2, rate)
    return [tuple(int(v) for v in row) for row in np.stack([a, n1 - a, c, n2 - c], axis=1)]


def test_random_tables_to_ten_digits():
    assert worst_error(random_tables(0, 400, 5)) < 1e-10


def test_counts_of_millions_to_ten_digits():
    rng = np.random.default_rng(1)
    rates = rng.uniform(0.001, 0.999, 12)
    n1, n2 = 2_701_355, 1_323_088
    tables = [(a := int(rng.binomial(n1, r)), n1 - a, c := int(rng.binomial(n2, r)), n2 - c) for r in rates]
    assert worst_error(tables) < 1e-10


@pytest.mark.parametrize(
    "table",
    [
        (285_689, 2_415_666, 23_278, 1_299_810),  # p about 1e-100000
        (2_701_355, 0, 0, 1_323_088),  # perfect separation
        (0 + 1, 2_701_354, 1_323_087, 1),  # p one step from 1
        (1, 0, 0, 1),
        (3, 7, 0, 10_000_000),
        (1, 9_999_999, 1, 9_999_999),
        (2, 999_998, 0, 1),  # p near 1 although the table lies above its expectation
        (50, 0, 950, 3),
        (900_000_000, 2_000_000_000, 890_000_000, 2_000_000_000),
    ],
)
def test_extreme_tables(table):
    assert worst_error([table]) < 1e-10


def test_least_possible_count_has_p_exactly_one():
    # No firings at all, an empty margin, everything fires in the baseline.
    tables = np.array([(0, 5, 3, 7), (0, 5, 0, 7), (0, 0, 3, 7), (4, 1, 9, 0), (5, 0, 9, 0), (0, 0, 0, 0)])
    assert (log_tail(*tables.T) == 0).all()


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 30)] * 4))
def test_small_tables_agree_with_scipy(table):
    a, b, c, d = table
    expected = fisher_exact([[a, b], [c, d]], alternative="greater").pvalue
    assert np.exp(log_tail(*np.array([table]).T))[0] == pytest.approx(expected, rel=1e-11)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_tail_falls_with_the_count_and_matches_scipy(n1, n2, data):
    fired = data.draw(st.integers(0, n1 + n2))
    a = np.arange(max(0, fired - n2), min(n1, fired) + 1)
    found = log_tail(a, n1 - a, fired - a, n2 - fired + a)
    assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(np.exp(found), hypergeom.sf(a - 1, n1 + n2, fired, n1), rtol=1e-9)


def test_distinct_tables_beyond_underflow_do_not_tie():
    a = np.arange(200_000, 200_500)
    found = log_tail(a, 2_701_355 - a, np.full(500, 20_000), np.full(500, 1_300_000))
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()


def test_neighbours_do_not_change_results():
    tables = np.array(random_tables(2, 20_000, 4)).T
    whole = log_tail(*tables)
    chosen = np.random.default_rng(0).choice(20_000, 300)
    np.testing.assert_allclose(whole[chosen], log_tail(*tables[:, chosen]), rtol=1e-13)


@pytest.mark.parametrize(
    "cells",
    [
        (400_000, 600_000, 200_000, 300_000),
        (402_000, 598_000, 199_000, 301_000),
        (420_000, 580_000, 200_000, 300_000),
        (400, 999_600, 200, 499_800),
        (400, 600, 200, 300),
        (20_000_000, 30_000_000, 39_990_000, 60_010_000),
    ],
)
@pytest.mark.parametrize("longer", [1, 1.19])
def test_quadrature_equals_series(cells, longer):
    a, b, c, d = map(float, cells)
    slope = np.log1p((a * d - b * c) / (b * c))
    rule = gram_rule(int(tail_length(a, b, c, d, slope) * longer))
    assert quadrature(a, b, c, d, slope, *rule) == pytest.approx(series(a, b, c, d), rel=3e-12)


def test_every_way_of_summing_a_tail_is_accurate_where_it_begins():
    # Around the shortest quadrature, and around the smallest cells that it takes.
    tables = [
        (int(a * odds), 40 * a, a * factor, 40 * a * factor)
        for a in range(40, 400, 9)
        for odds in (1.0, 1.05)
        for factor in (1, 30)
    ]
    assert worst_error(tables) < 1e-10


def test_logarithm_and_exponential_against_numpy():
    u = np.concatenate([np.linspace(-0.4, 2 / 3, 20_001), 10.0 ** np.arange(-18, -1), [0.0]])
    found = np.array([log_ratio(one / (2 + one)) for one in u])
    np.testing.assert_allclose(found, np.log1p(u), rtol=1e-15)
    x = np.concatenate([np.linspace(-700, 700, 20_001), np.linspace(-1, 1, 1_001)])
    np.testing.assert_allclose([exponential(one) for one in x], np.exp(x), rtol=1e-15)
    assert exponential(-1e9) == exponential(-700.0) < 1e-300


def test_gram_rule_sums_polynomials_exactly():
    nodes, weights = gram_rule(1000)
    scaled, steps = nodes / 1000, np.arange(1000) / 1000
    for power in (0, 1, 2, 7, 30, 39):
        assert (weights * scaled**power).sum() == pytest.approx((steps**power).sum(), rel=1e-11)


def test_stirling_and_deviance_against_many_digits():
    with mp.workdps(DIGITS):
        for n in (0, 1, 2, 15, 16, 17, 100, 10**9):
            truth = mp.loggamma(n + 1) - (n * mp.log(n) if n else 0) + n
            found = stirling(float(n)) + 0.5 * np.log(root(float(n)))
            assert found == pytest.approx(float(truth), rel=1e-13, abs=1e-14)
        for observed, expected in ((0, 2.5), (10**6, 1e6 + 0.5), (109, 100.0), (111, 100.0), (1, 3e5)):
            truth = (
                (observed * mp.log(mp.mpf(observed) / expected) if observed else 0)
                - observed
                + mp.mpf(expected)
            )
            found = deviance(float(observed), float(expected), float(observed - expected))
            assert found == pytest.approx(float(truth), rel=1e-12)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="-1; counts must be 0 or more"):
        log_tail(*np.array([[3, -1, 2, 2]]).T)
    with pytest.raises(ValueError, match="exact in 64 bits"):
        log_tail(*np.array([[LARGEST_TOTAL, 5, 2, 2]]).T)

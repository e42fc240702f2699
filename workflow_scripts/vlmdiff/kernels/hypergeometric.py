"""Log tails of the hypergeometric distribution, table by table.

The point probability follows Loader, "Fast and Accurate Computation of Binomial Probabilities"
(2000): Stirling's error and a deviance instead of differences of large log-factorials, which would
cancel to 1e-8 at counts of millions. The tail is the point probability times a sum of ratios.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel
from vlmdiff.kernels.tail_sums import stirling_tail, tail_sum

EXACT = 16  # below, Stirling's series is not accurate enough
STIRLING = np.array([0.0] + [math.log(math.factorial(k)) - k * math.log(k) + k for k in range(1, EXACT)])


@compiled
def stirling(n):
    """Return log n! - n log n + n; 0 at n = 0."""
    if n < EXACT:
        return STIRLING[int(n)]
    return stirling_tail(n) + 0.5 * np.log(2 * np.pi * n)


@compiled
def deviance(observed, expected, difference):
    """Return observed log(observed / expected) - difference, without cancellation near 0.

    Args:
        observed: a count; 0 log 0 is 0.
        expected: its positive expectation.
        difference: observed - expected, known more exactly than the two.
    """
    x = difference / expected
    if abs(x) >= 0.1:
        log_ratio = np.log(observed / expected) if observed > 0 else 0.0
        return observed * log_ratio - difference
    tail = 0.0
    for power in range(17, 1, -1):  # sum of (-x)^k / (k (k - 1)), k = 2 … 17
        tail = 1 / (power * (power - 1)) - x * tail
    return expected * x * x * tail


@compiled
def log_point(a, b, c, d, excess):
    """Return the log of the probability of the table itself.

    Args:
        a, b, c, d: counts, float64 with whole values.
        excess: a d - b c, exact.
    """
    total = a + b + c + d
    # All four cells lie as far from their expectation.
    off = excess / total
    margins = stirling(a + b) + stirling(c + d) + stirling(a + c) + stirling(b + d) - stirling(total)
    cells = stirling(a) + stirling(b) + stirling(c) + stirling(d)
    first = deviance(a, (a + b) * ((a + c) / total), off) + deviance(b, (a + b) * ((b + d) / total), -off)
    second = deviance(c, (c + d) * ((a + c) / total), -off) + deviance(d, (c + d) * ((b + d) / total), off)
    return margins - cells - first - second


@compiled
def log_upper(a, b, c, d, nodes, weights):
    """Return the log of P(X >= a) of a table at or above (at most one unit below) its mode; whole counts."""
    excess = float(a * d - b * c)
    a, b, c, d = float(a), float(b), float(c), float(d)
    return log_point(a, b, c, d, excess) + np.log(tail_sum(a, b, c, d, nodes, weights))


@parallel
def log_tails(a, b, c, d, nodes, weights, result):
    """Write the log of P(X >= a) of every table.

    Args:
        a, b, c, d: (tables,) int64 counts.
        nodes, weights: quadrature rules (`tail_sums.gram_rules`).
        result: (tables,) float64, written.
    """
    for i in prange(len(a)):
        result[i] = 0.0
        if min(a[i], d[i]) > 0:
            upper = 0.0
            if a[i] * d[i] >= b[i] * c[i]:
                upper = log_upper(a[i], b[i], c[i], d[i], nodes, weights)
            if upper > -0.7:
                # Near p = 1 only the complement, P(X <= a - 1), tells how near: columns are swapped.
                below = log_upper(b[i] + 1, a[i] - 1, d[i] - 1, c[i] + 1, nodes, weights)
                upper = np.log1p(-np.exp(below))
            result[i] = upper

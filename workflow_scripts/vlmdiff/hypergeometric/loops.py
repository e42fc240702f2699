"""Log tails of the hypergeometric distribution, table by table.

The point probability follows Loader, "Fast and Accurate Computation of Binomial Probabilities"
(2000): Stirling's error and a deviance instead of differences of large log-factorials, which would
cancel to 1e-8 at counts of millions. The tail is the point probability times a sum of ratios.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from vlmdiff.hypergeometric.tail_sums import stirling_tail, tail_sum
from vlmdiff.kernels.compiled import compiled, parallel

EXACT = 16  # below, Stirling's series is not accurate enough
# log n! - n log n + n - log(2 pi n) / 2; at 0, which has no root, log n! itself.
SMALL = np.array(
    [0.0]
    + [
        math.lgamma(k + 1) - (k + 0.5) * math.log(k) + k - 0.5 * math.log(2 * math.pi)
        for k in range(1, EXACT)
    ]
)
DEVIANCE = tuple(1 / (power * (power - 1)) for power in range(2, 18))


@compiled
def stirling(n):
    """Return Stirling's error of log n!, its root aside: log n! - n log n + n - log(root(n)) / 2."""
    return SMALL[int(n)] if n < EXACT else stirling_tail(1 / n)


@compiled
def root(n):
    """Return 2 pi n, whose square root is a factor of n!; 1 at n = 0."""
    return 2 * np.pi * n if n > 0 else 1.0


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
    for k in range(15, -1, -1):  # sum of (-x)^k / (k (k - 1)), k = 2 … 17
        tail = DEVIANCE[k] - x * tail
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
    over = root(a + b) * root(c + d) * (root(a + c) * root(b + d) / root(total))
    roots = 0.5 * np.log(over / (root(a) * root(b)) / (root(c) * root(d)))
    first, second = (a + c) / total, (b + d) / total
    above = deviance(a, (a + b) * first, off) + deviance(b, (a + b) * second, -off)
    below = deviance(c, (c + d) * first, -off) + deviance(d, (c + d) * second, off)
    return margins - cells + roots - above - below


@compiled
def log_upper(a, b, c, d, nodes, weights):
    """Return the log of P(X >= a) of a table at or above (at most one unit below) its mode; whole counts."""
    excess = float(a * d - b * c)
    a, b, c, d = float(a), float(b), float(c), float(d)
    return log_point(a, b, c, d, excess) + np.log(tail_sum(a, b, c, d, excess, nodes, weights))


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

"""Log tails of the hypergeometric distribution for millions of tables at once.

A table is (a, b; c, d): a target units fire and b do not, c baseline units fire and d do not. With
all margins fixed, a is hypergeometric. Tails go down to p = 10**-1000000 without underflow, and p
close to 1 keeps its distance from 1, so that no two different tables tie.

The point probability follows Loader, "Fast and Accurate Computation of Binomial Probabilities"
(2000): Stirling's error and a deviance instead of differences of large log-factorials, which would
cancel to 1e-8 at counts of millions. The tail is the point probability times a sum of ratios.
"""

from __future__ import annotations

import math

import numpy as np

from vlmdiff.features.tail_sums import Cells, stirling_tail, tail_sum

Array = np.ndarray

BLOCK = 8192  # tables worked on together: their arrays stay in the processor's cache
LARGEST_TOTAL = 6_000_000_000  # a d - b c stays exact in 64 bits
EXACT_STIRLING = 16  # below, Stirling's series is not accurate enough


def log_tail(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Natural log of P(X >= a), X hypergeometric with the margins of the table.

    Args:
        a, b, c, d: whole counts, one table an element.

    Returns:
        float64, at most 0; exactly 0 where `a` is the least possible value.

    Raises:
        ValueError: a count is negative, or a table's total is beyond exact arithmetic.
    """
    whole = [np.atleast_1d(np.asarray(cell, dtype=np.int64)) for cell in (a, b, c, d)]
    check_counts(whole)
    cells = Cells(*(cell.astype(np.float64) for cell in whole))
    excess = whole[0] * whole[3] - whole[1] * whole[2]
    result = np.zeros(len(excess))
    possible = np.minimum(whole[0], whole[3]) > 0
    upper = np.flatnonzero(possible & (excess >= 0))
    result[upper] = log_upper(cells.take(upper))
    # Near p = 1 only the complement tells how near.
    lower = np.concatenate([np.flatnonzero(possible & (excess < 0)), upper[result[upper] > -0.7]])
    result[lower] = np.log1p(-np.exp(log_upper(cells.take(lower).below())))
    return result


def check_counts(cells: list[Array]) -> None:
    """Refuse counts that no table can hold."""
    least = min((int(cell.min(initial=0)) for cell in cells), default=0)
    total = sum(int(cell.max(initial=0)) for cell in cells)
    if least < 0:
        raise ValueError(f"a table holds {least}; counts must be 0 or more (more firings than units?)")
    if total > LARGEST_TOTAL:
        raise ValueError(f"a table holds up to {total} units; at most {LARGEST_TOTAL} are exact in 64 bits")


def log_upper(cells: Cells) -> Array:
    """Log of the upper tail of tables at or above (at most one unit below) their mode."""
    result = np.empty(len(cells.a))
    for start in range(0, len(result), BLOCK):
        part = slice(start, start + BLOCK)
        block = cells.take(part)
        result[part] = log_point(block) + np.log(tail_sum(block))
    return result


def log_point(cells: Cells) -> Array:
    """Log of the probability of the table itself, by Stirling errors and deviances."""
    a, b, c, d = cells
    total = a + b + c + d
    # All four cells lie as far from their expectation; whole numbers give that without rounding.
    whole = Cells(*(cell.astype(np.int64) for cell in cells))
    excess = (whole.a * whole.d - whole.b * whole.c) / total
    margins = stirling(a + b) + stirling(c + d) + stirling(a + c) + stirling(b + d) - stirling(total)
    result = margins - sum(stirling(cell) for cell in cells)
    for cell, row, column, sign in (
        (a, a + b, a + c, 1),
        (b, a + b, b + d, -1),
        (c, c + d, a + c, -1),
        (d, c + d, b + d, 1),
    ):
        result -= deviance(cell, row * (column / total), sign * excess)
    return result


def stirling(n: Array) -> Array:
    """Return log n! - n log n + n; 0 at n = 0."""
    table = np.array(
        [0.0] + [math.log(math.factorial(k)) - k * math.log(k) + k for k in range(1, EXACT_STIRLING)]
    )
    large = np.maximum(n, EXACT_STIRLING)
    result = stirling_tail(large) + 0.5 * np.log(2 * np.pi * large)
    small = np.flatnonzero(n < EXACT_STIRLING)
    result[small] = table[n[small].astype(np.int64)]
    return result


def deviance(observed: Array, expected: Array, difference: Array) -> Array:
    """Return observed log(observed / expected) - difference, without cancellation near 0.

    Args:
        observed: counts; 0 log 0 is 0.
        expected: positive expectations.
        difference: observed - expected, known more exactly than the two.
    """
    relative = difference / expected
    log_ratio = np.log(np.where(observed > 0, observed, 1) / expected)
    result = observed * log_ratio - difference
    near = np.flatnonzero(np.abs(relative) < 0.1)
    x = relative[near]
    tail = np.zeros_like(x)
    for power in range(17, 1, -1):  # sum of (-x)^k / (k (k - 1)), k = 2 … 17
        tail = 1 / (power * (power - 1)) - x * tail
    result[near] = expected[near] * x * x * tail
    return result

"""Sums of a hypergeometric tail in units of its first term: sum over j of pmf(a + j) / pmf(a).

Short tails are summed term by term; long ones by Gauss quadrature for sums, whose nodes are the
zeros of discrete Chebyshev (Gram) polynomials: it sums polynomials up to degree 2 n - 1 exactly
over 0 … m - 1, so the tail needs no integral and no correction for its step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vlmdiff.kernels.compiled import compiled

PRECISION = 1e-17  # relative size of the rest of a series at which it ends
NEGLIGIBLE = 40.0  # fall of the log pmf after which the rest of a tail does not count
LONG = 700.0  # terms from which quadrature is faster
LEAST_CELL = 100.0  # cells that small need more of Stirling's series than `log_fall` has
NODES = 28  # quadrature nodes; from 24 on the sums agree with the series to 1e-13
FIRST_RULE, LAST_RULE = 18, 66  # quadrature rules sum 2^(rule / 2) terms, from about LONG to 2^33


@lru_cache(maxsize=1)
def gram_rules() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights `(rules, NODES)` of all rules from `FIRST_RULE` to `LAST_RULE`."""
    rules = [gram_rule(round(2.0 ** (rule / 2))) for rule in range(FIRST_RULE, LAST_RULE + 1)]
    return np.stack([nodes for nodes, _ in rules]), np.stack([weights for _, weights in rules])


def gram_rule(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes in (0, size - 1) and weights of the Gauss rule for sums over 0 … size - 1.

    Golub and Welsch's eigenvalues of the recurrence of discrete Chebyshev polynomials
    (Gautschi, "Orthogonal Polynomials", 2004, section 1.5).
    """
    k = np.arange(1, NODES, dtype=np.float64)
    off_diagonal = np.sqrt(k * k / 4 * (1 - (k / size) ** 2) / (4 - 1 / (k * k))) * size / k
    matrix = np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    values, vectors = np.linalg.eigh(matrix)
    return values + (size - 1) / 2, size * vectors[0] ** 2


@compiled
def tail_length(a, b, c, d):
    """Estimate after how many terms the pmf has fallen by exp(-NEGLIGIBLE).

    From its slope and curvature at `a`; two more rounds use the least curvature of the stretch.
    """
    slope = max(np.log((a + 1) * (d + 1) / (b * c)), 0.0) if b * c > 0 else np.inf
    length = 0.0
    for _ in range(3):
        curvature = 1 / b + 1 / c + 1 / (a + 1 + length) + 1 / (d + 1 + length)
        length = 2 * NEGLIGIBLE / (slope + np.sqrt(slope * slope + 2 * NEGLIGIBLE * curvature))
    return min(length, min(b, c))


@compiled
def series(a, b, c, d):
    """Add ratio after ratio until the rest does not count."""
    a, d = a + 1, d + 1
    total = term = 1.0
    while True:
        ratio = (b * c) / (a * d)
        term *= ratio
        total += term
        a, b, c, d = a + 1, b - 1, c - 1, d + 1
        following = (b * c) / (a * d)
        # A ratio above 1, possible one unit below the mode, makes the right side negative.
        if not (term > 0 and term * following > PRECISION * total * (1 - following)):
            return total


@compiled
def stirling_tail(n):
    """Return Stirling's error of log n!: 1/(12 n) - 1/(360 n^3) + …"""
    inverse = 1 / (n * n)
    inner = 1 / 1260 - inverse * (1 / 1680 - inverse / 1188)
    return (1 / 12 - inverse * (1 / 360 - inverse * inner)) / n


@compiled
def moved_fall(cell, step):
    """Return what one cell that moves by `step` takes from the log pmf, its slope at 0 aside."""
    moved = cell + step
    return (moved + 0.5) * np.log1p(step / cell) + stirling_tail(moved) - stirling_tail(cell)


@compiled
def log_fall(a, b, c, d, step):
    """Return log pmf(a + step) - log pmf(a), for cells so large that Stirling's series is short."""
    falls = moved_fall(a, step) + moved_fall(b, -step) + moved_fall(c, -step) + moved_fall(d, step)
    return -step * (np.log(a / b) + np.log(d / c)) - falls


@compiled
def quadrature(a, b, c, d, nodes, weights):
    """Sum as many terms as a rule covers by their values at its nodes."""
    total = 0.0
    for i in range(len(nodes)):
        total += weights[i] * np.exp(log_fall(a, b, c, d, nodes[i]))
    return total


@compiled
def tail_sum(a, b, c, d, nodes, weights):
    """Sum pmf(a + j) / pmf(a) over j = 0, 1, … for a table at or near above its mode.

    Args:
        a, b, c, d: counts, float64 with whole values.
        nodes, weights: all rules (`gram_rules`).

    Returns:
        float64, at least 1; relative error about 1e-12.
    """
    length = tail_length(a, b, c, d)
    if length > LONG:
        rule = int(np.ceil(2 * np.log2(length)))
        size = 2.0 ** (rule / 2)
        if rule <= LAST_RULE and min(min(a, d), min(b, c) - size) >= LEAST_CELL:
            return quadrature(a, b, c, d, nodes[rule - FIRST_RULE], weights[rule - FIRST_RULE])
    return series(a, b, c, d)

"""Sums of a hypergeometric tail in units of its first term: sum over j of pmf(a + j) / pmf(a).

Short tails are summed term by term; long ones by Gauss quadrature for sums, whose nodes are the
zeros of discrete Chebyshev (Gram) polynomials: it sums polynomials up to degree 2 n - 1 exactly
over 0 … m - 1, so the tail needs no integral and no correction for its step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vlmdiff.hypergeometric.elementary import exponential, log_ratio
from vlmdiff.kernels.compiled import compiled

PRECISION = 1e-14  # relative size of the rest of a series at which it ends
NEGLIGIBLE = 32.0  # fall of the log pmf after which the rest of a tail does not count
LONG = 64.0  # terms from which quadrature is faster
NODES = 20  # quadrature nodes; the sums agree with the series to 1e-12
FIRST_RULE, LAST_RULE = 24, 132  # quadrature rules sum 2^(rule / 4) terms, from LONG to 2^33


@lru_cache(maxsize=1)
def gram_rules() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights `(rules, NODES)` of all rules from `FIRST_RULE` to `LAST_RULE`."""
    rules = [gram_rule(round(2.0 ** (rule / 4))) for rule in range(FIRST_RULE, LAST_RULE + 1)]
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
def tail_length(a, b, c, d, slope):
    """Estimate after how many terms the pmf has fallen by exp(-NEGLIGIBLE).

    From its slope and curvature at `a`; one more round uses the least curvature of the stretch.

    Args:
        a, b, c, d: counts.
        slope: log of the first ratio of terms, its sign turned; infinity if there is one term.
    """
    length, slope = 0.0, max(slope, 0.0)
    fixed = 1 / b + 1 / c
    for _ in range(2):
        curvature = fixed + 1 / (a + 1 + length) + 1 / (d + 1 + length)
        length = 2 * NEGLIGIBLE / (slope + np.sqrt(slope * slope + 2 * NEGLIGIBLE * curvature))
    return min(length, min(b, c))


@compiled
def series(a, b, c, d):
    """Add ratio after ratio until the rest does not count."""
    a, d = a + 1, d + 1
    total, term, ratio = 1.0, 1.0, (b * c) / (a * d)
    while True:
        term *= ratio
        total += term
        a, b, c, d = a + 1, b - 1, c - 1, d + 1
        ratio = (b * c) / (a * d)
        # A ratio above 1, possible one unit below the mode, makes the right side negative.
        if not (term > 0 and term * ratio > PRECISION * total * (1 - ratio)):
            return total


@compiled
def stirling_tail(inverse):
    """Return Stirling's error of log n!, 1/(12 n) - 1/(360 n^3) + …, from 1 / n."""
    square = inverse * inverse
    inner = 1 / 1260 - square * (1 / 1680 - square * (1 / 1188))
    return (1 / 12 - square * (1 / 360 - square * inner)) * inverse


@compiled
def quotients(one, other, step):
    """Return `step / (cell + moved)` and `1 / moved` of two moved cells, which share divisions."""
    moved_one, moved_other = one + step, other + step
    sum_one, sum_other = one + moved_one, other + moved_other
    part, inverse = step / (sum_one * sum_other), 1 / (moved_one * moved_other)
    return part * sum_other, part * sum_one, inverse * moved_other, inverse * moved_one


@compiled
def moved_fall(moved, ratio, inverse):
    """Return what one moved cell takes from the log pmf, its slope at 0 aside.

    Args:
        moved: the cell.
        ratio, inverse: as `quotients` returns them.
    """
    return (moved + 0.5) * log_ratio(ratio) + stirling_tail(inverse)


@compiled
def quadrature(a, b, c, d, slope, nodes, weights):
    """Sum as many terms as a rule covers by their values at its nodes.

    Args:
        a, b, c, d: counts; no node moves one by more than the range of `log_ratio`.
        slope: log of ad / bc.
        nodes, weights: one rule (`gram_rule`).
    """
    start = stirling_tail(1 / a) + stirling_tail(1 / b) + stirling_tail(1 / c) + stirling_tail(1 / d)
    terms = np.empty(NODES)
    for i in range(NODES):
        step = nodes[i]
        ratio_a, ratio_d, inverse_a, inverse_d = quotients(a, d, step)
        ratio_b, ratio_c, inverse_b, inverse_c = quotients(b, c, -step)
        rising = moved_fall(a + step, ratio_a, inverse_a) + moved_fall(d + step, ratio_d, inverse_d)
        falling = moved_fall(b - step, ratio_b, inverse_b) + moved_fall(c - step, ratio_c, inverse_c)
        terms[i] = weights[i] * exponential(start - step * slope - rising - falling)
    return terms.sum()


@compiled
def tail_sum(a, b, c, d, excess, nodes, weights):
    """Sum pmf(a + j) / pmf(a) over j = 0, 1, … for a table at or near above its mode.

    Args:
        a, b, c, d: counts, float64 with whole values.
        excess: a d - b c, exact.
        nodes, weights: all rules (`gram_rules`).

    Returns:
        float64, at least 1; relative error about 1e-12.
    """
    product = b * c
    if product == 0:
        return 1.0
    length = tail_length(a, b, c, d, np.log1p((excess + a + d + 1) / product))
    if length > LONG:
        rule = int(np.ceil(4 * np.log2(length)))
        size = 2.0 ** (rule / 4)
        if rule <= LAST_RULE and 1.5 * size <= min(a, d) and 2.5 * size <= min(b, c):
            slope = np.log1p(excess / product)
            return quadrature(a, b, c, d, slope, nodes[rule - FIRST_RULE], weights[rule - FIRST_RULE])
    return series(a, b, c, d)

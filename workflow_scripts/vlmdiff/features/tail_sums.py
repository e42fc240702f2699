"""Sums of a hypergeometric tail in units of its first term: sum over j of pmf(a + j) / pmf(a).

Short tails are summed term by term; long ones by Gauss quadrature for sums, whose nodes are the
zeros of discrete Chebyshev (Gram) polynomials: it sums polynomials up to degree 2 n - 1 exactly
over 0 … m - 1, so the tail needs no integral and no correction for its step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

Array = np.ndarray

COMPACT_EVERY = 16  # terms between two looks for finished tables
PRECISION = 1e-17  # relative size of the rest of a series at which it ends
NEGLIGIBLE = 40.0  # fall of the log pmf after which the rest of a tail does not count
LONG = 700.0  # terms from which quadrature is faster
LEAST_CELL = 100.0  # cells that small need more of Stirling's series than `log_falls` has
NODES = 48  # quadrature nodes


class Cells(NamedTuple):
    """Counts of many 2 x 2 tables, float64 with whole values."""

    a: Array
    b: Array
    c: Array
    d: Array

    def take(self, index: Array | slice) -> Cells:
        """Return the tables at `index`."""
        return Cells(*(cell[index] for cell in self))

    def below(self) -> Cells:
        """Return the tables whose upper tail is P(X <= a - 1) of these ones (columns swapped)."""
        return Cells(self.b + 1, self.a - 1, self.d - 1, self.c + 1)


def tail_sum(cells: Cells) -> Array:
    """Sum pmf(a + j) / pmf(a) over j = 0, 1, … for tables at or near above their mode.

    Returns:
        float64, at least 1; relative error about 1e-12.
    """
    length = tail_length(cells)
    sizes = np.where(length > LONG, 2.0 ** (np.ceil(2 * np.log2(np.maximum(length, 1))) / 2), 0.0)
    room = np.minimum(np.minimum(cells.a, cells.d), np.minimum(cells.b, cells.c) - sizes)
    sizes[room < LEAST_CELL] = 0.0
    result = np.empty(len(length))
    for size in np.unique(sizes):
        index = np.flatnonzero(sizes == size)
        part = cells.take(index)
        result[index] = quadrature(part, int(size)) if size else series(part)
    return result


def tail_length(cells: Cells) -> Array:
    """Estimate after how many terms the pmf has fallen by exp(-NEGLIGIBLE).

    From its slope and curvature at `a`; two more rounds use the least curvature of the stretch.
    """
    a, b, c, d = cells
    with np.errstate(divide="ignore"):
        slope = np.maximum(np.log((a + 1) * (d + 1)) - np.log(b * c), 0.0)
        length = np.zeros(len(a))
        for _ in range(3):
            curvature = 1 / b + 1 / c + 1 / (a + 1 + length) + 1 / (d + 1 + length)
            length = 2 * NEGLIGIBLE / (slope + np.sqrt(slope * slope + 2 * NEGLIGIBLE * curvature))
    return np.minimum(length, np.minimum(b, c))


def series(cells: Cells) -> Array:
    """Add ratio after ratio; tables that are done leave the working set."""
    a, b, c, d = cells.a + 1, cells.b.copy(), cells.c.copy(), cells.d + 1
    result = np.ones(len(a))
    index, total, term = np.arange(len(a)), np.ones(len(a)), np.ones(len(a))
    while len(index):
        for _ in range(COMPACT_EVERY):
            term *= (b * c) / (a * d)
            total += term
            a += 1
            d += 1
            b -= 1
            c -= 1
        ratio = b * c / (a * d)
        # A ratio above 1, possible one unit below the mode, makes the right side negative.
        going = (term > 0) & (term * ratio > PRECISION * total * (1 - ratio))
        result[index[~going]] = total[~going]
        index, total, term, a, b, c, d = (x[going] for x in (index, total, term, a, b, c, d))
    return result


def quadrature(cells: Cells, size: int) -> Array:
    """Sum the first `size` terms by their values at `NODES` places between them."""
    places, weights = gram_rule(size)
    shape = tuple(cell[:, None] for cell in cells)
    return np.exp(log_falls(Cells(*shape), places[None, :])) @ weights


@lru_cache(maxsize=64)
def gram_rule(size: int) -> tuple[Array, Array]:
    """Return nodes in (0, size - 1) and weights of the Gauss rule for sums over 0 … size - 1.

    Golub and Welsch's eigenvalues of the recurrence of discrete Chebyshev polynomials
    (Gautschi, "Orthogonal Polynomials", 2004, section 1.5).
    """
    k = np.arange(1, NODES, dtype=np.float64)
    off_diagonal = np.sqrt(k * k / 4 * (1 - (k / size) ** 2) / (4 - 1 / (k * k))) * size / k
    matrix = np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    values, vectors = np.linalg.eigh(matrix)
    return values + (size - 1) / 2, size * vectors[0] ** 2


def log_falls(cells: Cells, steps: Array) -> Array:
    """Return log pmf(a + s) - log pmf(a), for cells so large that Stirling's series is short."""
    a, b, c, d = cells
    result = -steps * (np.log(a / b) + np.log(d / c))
    for cell, sign in ((a, 1.0), (b, -1.0), (c, -1.0), (d, 1.0)):
        moved = cell + sign * steps
        result -= (moved + 0.5) * np.log1p(sign * steps / cell)
        result -= stirling_tail(moved) - stirling_tail(cell)
    return result


def stirling_tail(n: Array) -> Array:
    """Return Stirling's error of log n!: 1/(12 n) - 1/(360 n^3) + …"""
    inverse = 1 / (n * n)
    return (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680 - inverse / 1188)))) / n

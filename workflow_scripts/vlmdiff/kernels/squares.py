"""Sums of squares of a batch in one pass each, rows in float32 and their sum in float64."""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel
from vlmdiff.kernels.lanes import dot

ROWS = 64  # rows whose sums are added up together, whatever the number of threads


@parallel
def subtract(x, x_hat, factor, scaled):
    """Write `factor * (x_hat - x)`, all (n, d), and return the sum of squares of `x_hat - x`."""
    n, d = x.shape
    blocks = (n + ROWS - 1) // ROWS
    sums = np.zeros(blocks)
    for block in prange(blocks):
        for i in range(block * ROWS, min(n, block * ROWS + ROWS)):
            row = scaled[i]
            for c in range(d):
                row[c] = x_hat[i, c] - x[i, c]
            sums[block] += dot(row, row)
            for c in range(d):
                row[c] *= factor
    return sums.sum()


@compiled
def column_sums(x):
    """Return the sum of each column of (n, d), in float64."""
    n, d = x.shape
    sums, part = np.zeros(d), np.empty(d, np.float32)
    for start in range(0, n, ROWS):
        part[:] = np.float32(0)
        for i in range(start, min(n, start + ROWS)):
            for c in range(d):
                part[c] += x[i, c]
        sums += part
    return sums


@compiled
def squared_deviations(x):
    """Return the sum of squared distances of rows (n, d) from their mean."""
    means, whole = (column_sums(x) / len(x)).astype(np.float32), 0.0
    row = np.empty_like(means)
    for i in range(x.shape[0]):
        for c in range(len(row)):
            row[c] = x[i, c] - means[c]
        whole += dot(row, row)
    return whole

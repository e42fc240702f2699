"""The strongest firing of each feature in each sample, in one pass over the firings."""

from __future__ import annotations

import numpy as np

from vlmdiff.kernels.compiled import compiled


@compiled
def strongest_firings(sample, cell, activation, count, cells):
    """Find the strongest firing of each (sample, cell), the first of equals, and count all.

    Args:
        sample: (firings,) int64, never falling.
        cell: (firings,) int64, what is told apart within a sample, in `range(cells)`.
        activation: (firings,) float64.
        count: (firings,) int64, tokens that each firing stands for.
        cells: how many cells there are.

    Returns:
        place of the strongest firing, and sum of the counts, of each (sample, cell) in the order in which
        they are first met.
    """
    places, counts = np.empty(len(sample), np.int64), np.empty(len(sample), np.int64)
    slot = np.full(cells, -1)
    found, first = 0, 0
    for i in range(len(sample)):
        if i and sample[i] != sample[i - 1]:
            first = found
        at = slot[cell[i]]
        # A slot of an earlier sample is none.
        if at < first:
            slot[cell[i]] = found
            places[found], counts[found] = i, count[i]
            found += 1
        else:
            counts[at] += count[i]
            if activation[i] > activation[places[at]]:
                places[at] = i
    return places[:found].copy(), counts[:found].copy()


@compiled
def add_firings(cell, activation, fires, total, squares):
    """Add firings to sums by cell: how many, their activations, and the squares of these."""
    for i in range(len(cell)):
        fires[cell[i]] += 1
        total[cell[i]] += activation[i]
        squares[cell[i]] += activation[i] * activation[i]


@compiled
def add_records(cell, tokens, count, samples, count_squares, count_tokens):
    """Add records of whole samples to sums by cell: how many, count squared, count times tokens."""
    for i in range(len(cell)):
        samples[cell[i]] += 1
        count_squares[cell[i]] += count[i] * count[i]
        count_tokens[cell[i]] += count[i] * tokens[i]

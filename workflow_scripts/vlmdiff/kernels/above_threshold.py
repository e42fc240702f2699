"""Which pre-activations exceed their feature's threshold, and which lie near it.

NaN counts as above every threshold, so that it shows in what is reconstructed.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel

BLOCK = 64  # columns that are looked at one by one only if one of them reaches its threshold's window


@compiled
def exceeds(value, threshold):
    """Tell whether a value is above its threshold, or NaN."""
    return (value > threshold) | (value != value)


@parallel
def count_above(pre, threshold, half, above, near):
    """Count in each row the values above the threshold, and those within `half` of it.

    Args:
        pre: (n, d_sae) float32.
        threshold: (d_sae,).
        half: half of the window's width, float32.
        above, near: (n,) int64, written.
    """
    for i in prange(len(pre)):
        row, one, two = pre[i], np.int32(0), np.int32(0)
        for c in range(len(row)):
            one += np.int32(exceeds(row[c], threshold[c]))
            two += np.int32(abs(row[c] - threshold[c]) < half)
        above[i], near[i] = one, two


@compiled
def reaches(row, threshold, half, start, stop):
    """Tell whether a stretch of columns holds a value above the threshold or in its window."""
    count = np.int32(0)
    for c in range(start, stop):
        count += np.int32(exceeds(row[c], threshold[c])) | np.int32(abs(row[c] - threshold[c]) < half)
    return count > 0


@parallel
def list_above(pre, threshold, half, begins, columns, values, near_begins, near_columns):
    """List what `count_above` counts, in the order of columns.

    Args:
        pre, threshold, half: as there.
        begins, columns, values: the pairs above the threshold; the last two are written.
        near_begins, near_columns: the pairs near it; the last is written.
    """
    for i in prange(len(pre)):
        row, at, beside = pre[i], begins[i], near_begins[i]
        for start in range(0, len(row), BLOCK):
            stop = min(start + BLOCK, len(row))
            if not reaches(row, threshold, half, start, stop):
                continue
            for c in range(start, stop):
                if exceeds(row[c], threshold[c]):
                    columns[at], values[at] = c, row[c]
                    at += 1
                if abs(row[c] - threshold[c]) < half:
                    near_columns[beside] = c
                    beside += 1

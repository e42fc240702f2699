"""Patterns of bits in 16-bit values."""

from __future__ import annotations

import numpy as np

from vlmdiff.kernels.compiled import compiled


@compiled
def count_masked(bits, mask):
    """Return how many values of a uint16 vector have all bits of `mask`."""
    count = np.int64(0)
    for start in range(0, len(bits), 32768):
        # A narrow counter lets many values be compared at once.
        part = np.uint16(0)
        for i in range(start, min(len(bits), start + 32768)):
            part += np.uint16((bits[i] & mask) == mask)
        count += part
    return count

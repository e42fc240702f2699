"""Patterns of bits in 16-bit values."""

from __future__ import annotations

import numpy as np

from vlmdiff.kernels.compiled import compiled

LOWEST, HIGHEST = np.uint64(0x0001_0001_0001_0001), np.uint64(0x8000_8000_8000_8000)
BLOCK = 8192


@compiled
def any_masked(words, mask):
    """Tell whether one of the four values in one of the 64-bit words has all bits of its part of `mask`.

    Args:
        words: uint64.
        mask: four times the mask of one value, without its highest bit.
    """
    for start in range(0, len(words), BLOCK):
        found = np.uint64(0)
        for i in range(start, min(len(words), start + BLOCK)):
            missing = ~words[i] & mask
            # A value of which no bit is missing borrows from its highest bit.
            found |= (missing - LOWEST) & ~missing & HIGHEST
        if found:
            return True
    return False


def count_masked(bits: np.ndarray, mask: int) -> int:
    """Return how many values of a contiguous uint16 vector have all bits of `mask`, its highest bit aside."""
    whole = len(bits) // 4 * 4
    words, rest = bits[:whole].view(np.uint64), bits[whole:]
    if any_masked(words, LOWEST * np.uint64(mask)):
        rest = bits
    return int(np.count_nonzero((rest & np.uint16(mask)) == mask))

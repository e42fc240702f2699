"""Log tails of the hypergeometric distribution for millions of tables at once.

A table is (a, b; c, d): a target units fire and b do not, c baseline units fire and d do not. With
all margins fixed, a is hypergeometric. Tails go down to p = 10**-1000000 without underflow, and p
close to 1 keeps its distance from 1, so that no two different tables tie.
"""

from __future__ import annotations

import numpy as np

from vlmdiff.hypergeometric.loops import log_tails
from vlmdiff.hypergeometric.tail_sums import gram_rules

Array = np.ndarray

LARGEST_TOTAL = 6_000_000_000  # a d - b c stays exact in 64 bits


def log_tail(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Natural log of P(X >= a), X hypergeometric with the margins of the table.

    Args:
        a, b, c, d: whole counts, one table an element.

    Returns:
        float64, at most 0; exactly 0 where `a` is the least possible value.

    Raises:
        ValueError: a count is negative, or a table's total is beyond exact arithmetic.
    """
    cells = [np.ascontiguousarray(np.atleast_1d(np.asarray(cell, dtype=np.int64))) for cell in (a, b, c, d)]
    check_counts(cells)
    result = np.empty(len(cells[0]))
    log_tails(*cells, *gram_rules(), result)
    return result


def check_counts(cells: list[Array]) -> None:
    """Refuse counts that no table can hold."""
    least = min((int(cell.min(initial=0)) for cell in cells), default=0)
    total = sum(int(cell.max(initial=0)) for cell in cells)
    if least < 0:
        raise ValueError(f"a table holds {least}; counts must be 0 or more (more firings than units?)")
    if total > LARGEST_TOTAL:
        raise ValueError(f"a table holds up to {total} units; at most {LARGEST_TOTAL} are exact in 64 bits")

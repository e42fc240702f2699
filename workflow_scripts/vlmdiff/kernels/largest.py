"""Exact top-k of rows by the maxima of groups.

A row of `width` values is seen as groups of `GROUP` values, and groups as about `4 k` families. What the
maxima of k families reach is a lower bound of the k-th largest value, and a good one: in random order some
15 % more than k values reach it. So only groups whose maximum reaches the bound are looked at again. Members
of a group (and groups of a family) lie as far apart as there are groups (families), so that all maxima of a
row are found by comparing vectors.

NaN counts as larger than any number, as in `torch.topk`: so it shows in the result.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel

GROUP = 16
FAMILIES_PER_VALUE = 4
HALVINGS = 8  # they leave 1/256 of the range of the families' maxima
# Comparing all pairs, in vectors, is faster than partitioning up to so many values.
FEW = 256
ROWS = 32  # rows that share buffers


@compiled
def kth_by_ranks(values, k):
    """Return the k-th largest of few values: the least of those that fewer than k exceed."""
    found = np.float32(np.inf)
    for i in range(len(values)):
        value, larger = values[i], np.int32(0)
        for j in range(len(values)):
            larger += np.int32(values[j] > value)
        if larger < k and value < found:
            found = value
    return found


@compiled
def kth_by_partition(values, k):
    """Return the k-th largest of `values`, whose order is changed (Hoare's quickselect)."""
    low, high, place = 0, len(values) - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            return values[place]
    return values[place]


@compiled
def kth_largest(values, k):
    """Return the k-th largest of `values`, whose order may be changed."""
    return kth_by_ranks(values, k) if len(values) <= FEW else kth_by_partition(values, k)


@compiled
def reached_by(values, k):
    """Return a number that at least `k` of the values reach, and hardly more: their range is halved."""
    low, high = values[0], values[0]
    for i in range(len(values)):
        low = values[i] if values[i] < low else low
        high = values[i] if values[i] > high else high
    for _ in range(HALVINGS):
        middle, reached = np.float32(0.5) * (low + high), np.int32(0)
        for i in range(len(values)):
            reached += np.int32(values[i] >= middle)
        # No branches, which would be mispredicted.
        low, high = (middle if reached >= k else low), (high if reached >= k else middle)
    return low


@compiled
def fold(values, maxima):
    """Write the maxima of groups of values, `len(maxima)` apart; the last members may be missing."""
    size = len(maxima)
    maxima[:] = values[:size]
    for start in range(size, len(values), size):
        part = values[start : start + size]
        for g in range(len(part)):
            one, two = maxima[g], part[g]
            maxima[g] = two if two > one else one


@compiled
def reaching(values, bound, found):
    """Write the places of all values of at least `bound`; return how many there are."""
    count = 0
    for place in range(len(values)):
        found[count] = place
        count += values[place] >= bound
    return count


@compiled
def members_reaching(row, groups, n_groups, n_all, bound, found):
    """Write the columns of at least `bound` in the given groups; return how many there are."""
    count = 0
    for i in range(n_groups):
        for column in range(groups[i], len(row), n_all):
            found[count] = column
            count += row[column] >= bound
    return count


@compiled
def keep_largest(row, found, count, values, columns, scratch):
    """Write the k largest of `count` columns; of equal values at the border the first found are kept."""
    k = len(values)
    for i in range(count):
        scratch[i] = row[found[i]]
    border = kth_largest(scratch[:count], k) if count > k else np.float32(-np.inf)
    above = 0
    for i in range(count):
        above += row[found[i]] > border
    kept, equal = 0, k - above
    for i in range(count):
        value = row[found[i]]
        if value > border or (value == border and equal > 0):
            equal -= value == border
            values[kept], columns[kept] = value, found[i]
            kept += 1


@compiled
def keep_missing(row, values, columns, found):
    """Write the first NaN of a row, at most k; list the columns of all numbers.

    Returns:
        how many were written, and how many columns are listed.
    """
    kept, count = 0, 0
    for column in range(len(row)):
        if row[column] == row[column]:
            found[count] = column
            count += 1
        elif kept < len(values):
            values[kept], columns[kept] = row[column], column
            kept += 1
    return kept, count


@compiled
def select_row(row, missing, values, columns, maxima, families, groups, found, scratch):
    """Write the k largest values of a row and where they stand; the last arguments are buffers."""
    k = len(values)
    if missing > 0:
        kept, count = keep_missing(row, values, columns, found)
        if kept < k:
            keep_largest(row, found, count, values[kept:], columns[kept:], scratch)
        return
    if len(families) < 2 * k:
        # Too few families for a bound: the values themselves tell one.
        count = reaching(row, reached_by(row, k), found)
        keep_largest(row, found, count, values, columns, scratch)
        return
    fold(row, maxima)
    fold(maxima, families)
    bound = reached_by(families, k)
    n_groups = reaching(maxima, bound, groups)
    count = members_reaching(row, groups, n_groups, len(maxima), bound, found)
    keep_largest(row, found, count, values, columns, scratch)


@compiled
def add(row, bias):
    """Add a vector to another one; return how many values are NaN then."""
    missing = np.int32(0)
    for c in range(len(row)):
        total = row[c] + bias[c]
        row[c] = total
        missing += np.int32(total != total)
    return missing


@parallel
def select_largest(pre, bias, values, columns):
    """Write the k largest values of each row of `pre + bias` and where they stand, in no order.

    Args:
        pre: (n, width) float32; the bias is added to it.
        bias: (width,) float32.
        values: (n, k) float32, all written; k at most the width.
        columns: (n, k) int64, all written; those of a row differ.
    """
    n, width = pre.shape
    n_groups = (width + GROUP - 1) // GROUP
    n_families = min(n_groups, FAMILIES_PER_VALUE * values.shape[1])
    for block in prange((n + ROWS - 1) // ROWS):
        maxima, families = np.empty(n_groups, np.float32), np.empty(n_families, np.float32)
        # One more place than can be found: a place is written before it is known to count.
        groups, found = np.empty(n_groups + 1, np.int32), np.empty(width + 1, np.int32)
        scratch = np.empty(width, np.float32)
        for i in range(block * ROWS, min(n, block * ROWS + ROWS)):
            missing = add(pre[i], bias)
            select_row(pre[i], missing, values[i], columns[i], maxima, families, groups, found, scratch)

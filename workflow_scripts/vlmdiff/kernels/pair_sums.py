"""Sums over active pairs (token, feature).

Pairs stand in the order of tokens: those of token `i` are `begins[i]:begins[i + 1]`; `columns` names their
features, `values` their activations. A value of 0 marks a pair that is switched off.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel
from vlmdiff.kernels.lanes import add_four, add_one, dot


@parallel
def decode_pairs(begins, columns, values, W_dec, b_dec, x_hat):
    """Write `x_hat[i] = b_dec + sum over the token's pairs of value * W_dec[feature]`.

    Args:
        begins, columns, values: the pairs, int64, int64 and float32.
        W_dec: (d_sae, d_model).
        b_dec: (d_model,).
        x_hat: (n, d_model), written.
    """
    for i in prange(len(x_hat)):
        row = x_hat[i]
        row[:] = b_dec
        stop = begins[i + 1]
        whole = begins[i] + (stop - begins[i]) // 4 * 4
        for p in range(begins[i], whole, 4):
            # A pair that is switched off has the value 0.
            add_four(
                row,
                values[p], W_dec[columns[p]],
                values[p + 1], W_dec[columns[p + 1]],
                values[p + 2], W_dec[columns[p + 2]],
                values[p + 3], W_dec[columns[p + 3]],
            )  # fmt: skip
        for p in range(whole, stop):
            add_one(row, values[p], W_dec[columns[p]])


@parallel
def pair_products(gradient, begins, columns, values, W_dec, products):
    """Write `gradient[token] . W_dec[feature]` of each pair, 0 where it is switched off.

    Args:
        gradient: (n, d_model).
        begins, columns, values: the pairs.
        W_dec: (d_sae, d_model).
        products: (pairs,), written.
    """
    for i in prange(len(gradient)):
        row = gradient[i]
        for p in range(begins[i], begins[i + 1]):
            products[p] = dot(row, W_dec[columns[p]]) if values[p] > 0 else np.float32(0)


@compiled
def count_pairs(columns, values, counts):
    """Add to `counts (d_sae,)` the active pairs of each feature."""
    for p in range(len(columns)):
        counts[columns[p]] += values[p] > 0


@compiled
def group_by_feature(begins, columns, values, d_sae):
    """Sort active pairs by feature, those of one feature by token.

    Returns:
        starts: (d_sae + 1,) sorted pairs of feature f are `starts[f]:starts[f + 1]`.
        pairs: place of each sorted pair in `values`.
        tokens: token of each sorted pair.
    """
    starts = np.zeros(d_sae + 1, np.int64)
    count_pairs(columns, values, starts[1:])
    for f in range(d_sae):
        starts[f + 1] += starts[f]
    free = starts[:-1].copy()
    pairs, tokens = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int64)
    for i in range(len(begins) - 1):
        for p in range(begins[i], begins[i + 1]):
            if values[p] > 0:
                place = free[columns[p]]
                free[columns[p]] += 1
                pairs[place], tokens[place] = p, i
    return starts, pairs, tokens

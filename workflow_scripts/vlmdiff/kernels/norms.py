"""The norm of a batch's gradient, from its pairs; no gradient matrix is ever written."""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.adam import BLOCK, remove_along, sum_pairs
from vlmdiff.kernels.compiled import parallel
from vlmdiff.kernels.lanes import dot


@parallel
def square_norms(grouping, products, values, x, gradient, W_dec, biases, squares):
    """Write the squared norm of what `vlmdiff.kernels.adam.update_features` would take as gradients.

    Args:
        grouping: the pairs by feature (`group_by_feature`).
        products: (pairs,) gradient of each pre-activation.
        values: (pairs,) activations.
        x: (n, d_model) input of the encoder.
        gradient: (n, d_model) gradient of the reconstruction.
        W_dec: (d_sae, d_model) rows of unit norm; the decoder's gradient loses its part along them.
        biases: (d_sae,) float32, zeros; becomes the gradient of b_enc.
        squares: (blocks,) float64, written: sums of squares of the gradients of encoder, decoder and b_enc,
            by block of features.
    """
    starts, pairs, tokens = grouping
    for block in prange(len(squares)):
        first, last = block * BLOCK, min(len(biases), block * BLOCK + BLOCK)
        row, total = np.empty(x.shape[1], np.float32), 0.0
        for f in range(first, last):
            start, stop = starts[f], starts[f + 1]
            for p in range(start, stop):
                biases[f] += products[pairs[p]]
            sum_pairs(products, pairs, tokens, start, stop, x, row)
            total += np.float64(biases[f]) ** 2 + np.float64(dot(row, row))
            sum_pairs(values, pairs, tokens, start, stop, gradient, row)
            remove_along(row, W_dec[f])
            total += np.float64(dot(row, row))
        squares[block] = total

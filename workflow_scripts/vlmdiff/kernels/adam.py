"""One pass over all features: gradient from its pairs, Adam, unit norm; no gradient matrix is ever written.

Adam (arXiv 1412.6980) as torch does it: `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`,
`p -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel
from vlmdiff.kernels.lanes import add_four, add_one, dot
from vlmdiff.kernels.squares import column_sums

INFINITY = np.float32(np.inf)
BLOCK = 32  # features that share buffers, whatever the number of threads: sums stay the same


@compiled
def adam_row(row, first, second, gradient, beta1, beta2, rate, root, eps):
    """Update one row of a matrix and its moments; return how many weights or squares are not finite then.

    A second moment of infinity would freeze its weight without a trace in the loss.

    Args:
        row, first, second: (d,) weights and moments, updated.
        gradient: (d,).
        beta1, beta2, eps: Adam's settings.
        rate: `lr / (1 - beta1^t)`.
        root: `1 / sqrt(1 - beta2^t)`.
    """
    one, finite = np.float32(1), np.int32(0)
    for c in range(len(row)):
        g = gradient[c]
        m = first[c] + (one - beta1) * (g - first[c])
        v = beta2 * second[c] + (one - beta2) * g * g
        first[c], second[c] = m, v
        moved = row[c] - rate * m / (np.sqrt(v) * root + eps)
        row[c] = moved
        finite += np.int32(abs(moved) < INFINITY) & np.int32(v < INFINITY)
    return len(row) - finite


@compiled
def sum_pairs(weights, pairs, tokens, start, stop, rows, total):
    """Write `sum over sorted pairs of weight * rows[token]`."""
    total[:] = np.float32(0)
    whole = start + (stop - start) // 4 * 4
    for p in range(start, whole, 4):
        add_four(
            total,
            weights[pairs[p]], rows[tokens[p]],
            weights[pairs[p + 1]], rows[tokens[p + 1]],
            weights[pairs[p + 2]], rows[tokens[p + 2]],
            weights[pairs[p + 3]], rows[tokens[p + 3]],
        )  # fmt: skip
    for p in range(whole, stop):
        add_one(total, weights[pairs[p]], rows[tokens[p]])


@compiled
def remove_along(gradient, direction):
    """Remove from a gradient its part along a unit direction."""
    along = dot(gradient, direction)
    for c in range(len(gradient)):
        gradient[c] -= along * direction[c]


@compiled
def normalise(row):
    """Bring a row to unit norm; tell whether its norm was a number beyond float32."""
    norm = max(np.sqrt(dot(row, row)), np.float32(1e-12))
    for c in range(len(row)):
        row[c] /= norm
    return not norm < INFINITY


@parallel
def update_features(
    grouping, products, values, x, gradient, encoder, decoder, bias, settings, offset_gradients
):
    """Update encoder rows, decoder rows and biases of all features by the gradients of their pairs.

    Args:
        grouping: the pairs by feature (`group_by_feature`).
        products: (pairs,) gradient of each pre-activation.
        values: (pairs,) activations.
        x: (n, d_model) input of the encoder.
        gradient: (n, d_model) gradient of the reconstruction.
        encoder: weights (d_sae, d_model), the encoder's columns as rows, and both moments; updated.
        decoder: the same of the decoder, whose rows have unit norm before and after.
        bias: the same of b_enc (d_sae,).
        settings: (beta1, beta2, rate, root, eps) as for `adam_row`.
        offset_gradients: (blocks, d_model), written: `sum over features of the bias's gradient * encoder
            row`, in parts.

    Returns:
        how many weights, second moments or norms are not finite afterwards.
    """
    starts, pairs, tokens = grouping
    beta1, beta2, rate, root, eps = settings
    W_enc, m_enc, v_enc = encoder
    W_dec, m_dec, v_dec = decoder
    b_enc, m_bias, v_bias = bias
    counts = np.zeros(len(offset_gradients), np.int64)
    for block in prange(len(offset_gradients)):
        first, last = block * BLOCK, min(len(W_enc), block * BLOCK + BLOCK)
        total, offset = np.empty(x.shape[1], np.float32), offset_gradients[block]
        biases, broken = np.zeros(last - first, np.float32), 0
        offset[:] = np.float32(0)
        for f in range(first, last):
            start, stop = starts[f], starts[f + 1]
            for p in range(start, stop):
                biases[f - first] += products[pairs[p]]
            if biases[f - first] != 0:
                for c in range(len(offset)):
                    offset[c] += biases[f - first] * W_enc[f, c]
            sum_pairs(products, pairs, tokens, start, stop, x, total)
            broken += adam_row(W_enc[f], m_enc[f], v_enc[f], total, beta1, beta2, rate, root, eps)
            sum_pairs(values, pairs, tokens, start, stop, gradient, total)
            remove_along(total, W_dec[f])
            broken += adam_row(W_dec[f], m_dec[f], v_dec[f], total, beta1, beta2, rate, root, eps)
            broken += normalise(W_dec[f])
        broken += adam_row(
            b_enc[first:last], m_bias[first:last], v_bias[first:last], biases, beta1, beta2, rate, root, eps
        )
        counts[block] = broken
    return counts.sum()


@compiled
def update_offset(gradient, offset_gradients, subtracted, offset, settings):
    """Update the decoder's bias; return how many values are not finite then.

    Args:
        gradient: (n, d_model) gradient of the reconstruction.
        offset_gradients: (blocks, d_model) what `update_features` has written.
        subtracted: whether the encoder's input has the bias subtracted.
        offset: b_dec (d_model,) and both moments; updated.
        settings: (beta1, beta2, rate, root, eps) as for `adam_row`.
    """
    beta1, beta2, rate, root, eps = settings
    total = column_sums(gradient)
    if subtracted:
        total -= column_sums(offset_gradients)
    return adam_row(offset[0], offset[1], offset[2], total.astype(np.float32), beta1, beta2, rate, root, eps)

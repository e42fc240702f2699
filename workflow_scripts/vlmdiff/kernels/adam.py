"""One pass over all features: gradient from its pairs, Adam, unit norm; no gradient matrix is ever written.

Adam (arXiv 1412.6980) as torch does it: `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`,
`p -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from vlmdiff.kernels.compiled import compiled, parallel
from vlmdiff.kernels.lanes import dot

BLOCK = 32  # features that share buffers, whatever the number of threads: sums stay the same


@compiled
def adam_row(row, first, second, gradient, beta1, beta2, rate, root, eps):
    """Update one row of a matrix and its moments.

    Args:
        row, first, second: (d,) weights and moments, updated.
        gradient: (d,).
        beta1, beta2, eps: Adam's settings.
        rate: `lr / (1 - beta1^t)`.
        root: `1 / sqrt(1 - beta2^t)`.
    """
    one = np.float32(1)
    for c in range(len(row)):
        g = gradient[c]
        m = first[c] + (one - beta1) * (g - first[c])
        v = beta2 * second[c] + (one - beta2) * g * g
        first[c], second[c] = m, v
        row[c] -= rate * m / (np.sqrt(v) * root + eps)


@compiled
def sum_pairs(weights, pairs, tokens, start, stop, rows, total):
    """Write `sum over sorted pairs of weight * rows[token]`."""
    total[:] = np.float32(0)
    for p in range(start, stop):
        weight, row = weights[pairs[p]], rows[tokens[p]]
        for c in range(len(total)):
            total[c] += weight * row[c]


@compiled
def remove_along(gradient, direction):
    """Remove from a gradient its part along a unit direction."""
    along = dot(gradient, direction)
    for c in range(len(gradient)):
        gradient[c] -= along * direction[c]


@compiled
def normalise(row):
    """Bring a row to unit norm."""
    norm = max(np.sqrt(dot(row, row)), np.float32(1e-12))
    for c in range(len(row)):
        row[c] /= norm


@parallel
def update_features(
    grouping, products, values, x, gradient, encoder, decoder, settings, bias_gradient, offset_gradients
):
    """Update encoder and decoder rows of all features by the gradients of their pairs.

    Args:
        grouping: the pairs by feature (`group_by_feature`).
        products: (pairs,) gradient of each pre-activation.
        values: (pairs,) activations.
        x: (n, d_model) input of the encoder.
        gradient: (n, d_model) gradient of the reconstruction.
        encoder: weights (d_sae, d_model), the encoder's columns as rows, and both moments; updated.
        decoder: the same of the decoder, whose rows have unit norm before and after.
        settings: (beta1, beta2, rate, root, eps) as for `adam_row`.
        bias_gradient: (d_sae,) gradient of b_enc, written.
        offset_gradients: (blocks, d_model), written: `sum over features of bias_gradient * encoder row`, in
            parts.
    """
    starts, pairs, tokens = grouping
    beta1, beta2, rate, root, eps = settings
    W_enc, m_enc, v_enc = encoder
    W_dec, m_dec, v_dec = decoder
    for block in prange(len(offset_gradients)):
        total, offset = np.empty(x.shape[1], np.float32), offset_gradients[block]
        offset[:] = np.float32(0)
        for f in range(block * BLOCK, min(len(W_enc), block * BLOCK + BLOCK)):
            start, stop = starts[f], starts[f + 1]
            bias = np.float32(0)
            for p in range(start, stop):
                bias += products[pairs[p]]
            bias_gradient[f] = bias
            if bias != 0:
                for c in range(len(offset)):
                    offset[c] += bias * W_enc[f, c]
            sum_pairs(products, pairs, tokens, start, stop, x, total)
            adam_row(W_enc[f], m_enc[f], v_enc[f], total, beta1, beta2, rate, root, eps)
            sum_pairs(values, pairs, tokens, start, stop, gradient, total)
            remove_along(total, W_dec[f])
            adam_row(W_dec[f], m_dec[f], v_dec[f], total, beta1, beta2, rate, root, eps)
            normalise(W_dec[f])

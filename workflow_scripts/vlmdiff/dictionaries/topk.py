"""Reconstruction of a TopK dictionary through its active features only.

All weight gradients of a TopK dictionary are sparse: only the forward product of the encoder is
dense. The other products are sums over the `n * k` active pairs of token and feature.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import embedding_bag


def chunk_rows(width: int, at_least: int, device: torch.device) -> int:
    """Return how many rows of `width` values to work on at once.

    On a CPU a chunk stays in a core's cache; an accelerator is better off with large ones.
    """
    values = 2**18 if device.type == "cpu" else 2**26
    return max(at_least, values // width)


def encode_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return values and columns `(n, k)` of the `k` largest pre-activations of each token.

    Works through chunks of tokens, so that no `(n, d_sae)` matrix goes through main memory.
    """
    rows = chunk_rows(W_enc.shape[1], 256, x.device)
    parts = [torch.topk(torch.addmm(b_enc, part, W_enc), k, dim=1, sorted=False) for part in x.split(rows)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def active_products(gradient: Tensor, W_dec: Tensor, indices: Tensor) -> Tensor:
    """Return `gradient[token] . W_dec[feature]` for the active pairs `(n, k)`, in chunks of tokens."""
    n, k = indices.shape
    rows = chunk_rows(k * W_dec.shape[1], 1, gradient.device)
    products = []
    for part, chosen in zip(gradient.split(rows), indices.split(rows)):
        directions = W_dec.index_select(0, chosen.flatten()).view(len(part), k, -1)
        products.append((directions * part[:, None]).sum(dim=2))
    return torch.cat(products)


def by_feature(indices: Int64[Tensor, "n k"], d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the active pairs by feature.

    Returns:
        the order that sorts the flattened pairs, the token of each sorted pair, and for each
        feature where its pairs begin, with the end `(d_sae + 1,)`.
    """
    flat = indices.flatten()
    order = flat.argsort(stable=True)
    begins = torch.zeros(d_sae + 1, dtype=torch.int64, device=flat.device)
    torch.cumsum(torch.bincount(flat, minlength=d_sae), dim=0, out=begins[1:])
    return order, order // indices.shape[1], begins


def sum_by_feature(pairs: Tensor, rows: Tensor, grouping: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """For each feature sum `pairs * rows[token]` over its active pairs: `(n, k), (n, d) -> (d_sae, d)`."""
    order, token, begins = grouping
    weights = pairs.flatten()[order]
    return embedding_bag(
        token, rows, begins, per_sample_weights=weights, mode="sum", include_last_offset=True
    )


class SparseReconstruction(torch.autograd.Function):
    """`relu(topk((x - offset) W_enc + b_enc)) W_dec + b_dec` through the active features alone.

    `offset` is `b_dec` or zero. No gradient is returned for `x`, which is data.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        k: int,
        subtract_decoder_bias: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `x_hat (n, d_model)`, `values (n, k)` and `indices (n, k)`."""
        x = x - b_dec if subtract_decoder_bias else x
        values, indices = encode_topk(x, W_enc, b_enc, k)
        values = values.relu_()
        x_hat = embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum").add_(b_dec)
        ctx.save_for_backward(x, W_enc, W_dec, values, indices)
        ctx.subtract_decoder_bias = subtract_decoder_bias
        ctx.mark_non_differentiable(values, indices)
        return x_hat, values, indices

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return gradients of all weights by sums over the active pairs."""
        x, W_enc, W_dec, values, indices = ctx.saved_tensors
        flat = indices.flatten()
        g_pre = active_products(gradient, W_dec, indices) * (values > 0)
        g_b_enc = torch.zeros_like(W_dec[:, 0]).index_add_(0, flat, g_pre.flatten())
        g_b_dec = gradient.sum(dim=0)
        if ctx.subtract_decoder_bias:
            g_b_dec = g_b_dec - W_enc @ g_b_enc
        grouping = by_feature(indices, W_dec.shape[0])
        g_W_enc = sum_by_feature(g_pre, x, grouping).T.contiguous()
        g_W_dec = sum_by_feature(values, gradient.contiguous(), grouping)
        return None, g_W_enc, g_b_enc, g_W_dec, g_b_dec, None, None

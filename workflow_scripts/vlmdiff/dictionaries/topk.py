"""Exact top-k and the reconstruction through active features only.

All weight gradients of a TopK dictionary are sparse: only the forward product of the encoder is
dense. The other products run over the `n * k` active pairs as sparse matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

GROUP = 16


def largest(
    pre: Float[Tensor, "n d_sae"], k: int
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Return the `k` largest values of each row and their columns, in no particular order.

    Exact: a row's `k` largest values lie within the `k` groups of columns with the largest maxima.
    This reads far less than `torch.topk` on the whole row when `d_sae` is much larger than `k`.
    Of equal values any may be kept.
    """
    n, width = pre.shape
    if width % GROUP or width < 4 * GROUP * k:
        return torch.topk(pre, k, dim=1, sorted=False)
    groups = pre.view(n, width // GROUP, GROUP)
    best = torch.topk(groups.amax(dim=2), k, dim=1, sorted=False).indices
    inside = groups.gather(1, best[:, :, None].expand(n, k, GROUP)).view(n, k * GROUP)
    values, places = torch.topk(inside, k, dim=1, sorted=False)
    group = best.gather(1, places // GROUP)
    return values, group * GROUP + places % GROUP


def by_feature(indices: Int64[Tensor, "n k"], d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order that sorts active pairs by feature, each pair's token, and row pointers."""
    flat = indices.flatten()
    order = flat.argsort(stable=True)
    pointers = torch.zeros(d_sae + 1, dtype=torch.int64, device=flat.device)
    torch.cumsum(torch.bincount(flat, minlength=d_sae), dim=0, out=pointers[1:])
    return order, order // indices.shape[1], pointers


class SparseReconstruction(torch.autograd.Function):
    """`relu(topk(x W_enc + b_enc)) W_dec + b_dec`, with the values and columns of active features.

    The gradient for `x` is returned only where it is needed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `x_hat (n, d_model)`, `values (n, k)` and `indices (n, k)`."""
        values, indices = largest(torch.addmm(b_enc, x, W_enc), k)
        values = values.relu()
        x_hat = torch.nn.functional.embedding_bag(
            indices, W_dec, per_sample_weights=values, mode="sum"
        ).add_(b_dec)
        ctx.save_for_backward(x, W_enc, W_dec, values, indices)
        ctx.mark_non_differentiable(values, indices)
        return x_hat, values, indices

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return gradients of all weights through sparse products over the active pairs."""
        x, W_enc, W_dec, values, indices = ctx.saved_tensors
        n, d_sae = x.shape[0], W_dec.shape[0]
        chosen = W_dec[indices.flatten()].view(*indices.shape, -1)
        pre_gradient = torch.bmm(chosen, gradient[:, :, None]).squeeze(2) * (values > 0)
        order, token, pointers = by_feature(indices, d_sae)

        def transposed(pairs: Tensor) -> Tensor:
            return torch.sparse_csr_tensor(
                pointers, token, pairs.flatten()[order], (d_sae, n), check_invariants=False
            )

        g_enc = transposed(pre_gradient) @ x
        g_dec = transposed(values) @ gradient
        g_b_enc = torch.zeros_like(W_dec[:, 0]).index_add_(0, indices.flatten(), pre_gradient.flatten())
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = torch.nn.functional.embedding_bag(
                indices, W_enc.T, per_sample_weights=pre_gradient, mode="sum"
            )
        return g_x, g_enc.T, g_b_enc, g_dec, gradient.sum(dim=0), None

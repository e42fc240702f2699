"""The auxiliary loss that brings dead features of a TopK dictionary back (arXiv 2406.04093, A.2).

The dead features with the largest pre-activations of a token reconstruct what its active ones leave. Only
dead features get a gradient by it, and `b_dec` through the input of the encoder. Everything is a sum over
pairs of token and dead feature, beside one product with the part of the encoder that is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from vlmdiff.dictionaries.pairs import PairGradients, decode_active
from vlmdiff.dictionaries.topk import kept_or_summed, pair_gradients, topk_pairs


def auxiliary_size(d_model: int) -> int:
    """Return how many dead features a token has at most: half the width of the residual stream (B.1)."""
    return max(1, d_model // 2)


class DeadReconstruction(torch.autograd.Function):
    """`divisor relu(topk((x - offset) W_enc[:, dead] + b_enc[dead])) W_dec[dead]`; no `b_dec` is added.

    `offset`, `divisor`, `x` and `keep` as for `topk.SparseReconstruction`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        dead: Int64[Tensor, " dead"],
        k: int,
        subtract_decoder_bias: bool,
        keep: Callable[[PairGradients], None] | None = None,
        divisor: Tensor | None = None,
    ) -> Tensor:
        """Return the reconstruction `(n, d_model)` by the `k` strongest dead features of each token."""
        x = x - b_dec if subtract_decoder_bias else x
        # Rows of the transpose lie together in memory where the compiled loops hold it by column.
        found = topk_pairs(x, W_enc.T[dead].T, b_enc[dead], k, None if divisor is None else divisor[dead])
        pairs = replace(found, columns=dead[found.columns])
        ctx.save_for_backward(x, W_enc, W_dec)
        ctx.pairs, ctx.subtract_decoder_bias, ctx.keep = pairs, subtract_decoder_bias, keep
        ctx.divisor = divisor
        return decode_active(pairs, W_dec, torch.zeros_like(b_dec))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of all weights by sums over the pairs."""
        return None, *kept_or_summed(ctx, pair_gradients(ctx, gradient, biased=0)), *(None,) * 5

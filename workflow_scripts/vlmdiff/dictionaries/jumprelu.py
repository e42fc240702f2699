"""JumpReLU and its step with straight-through gradients (arXiv 2407.14435, section 3).

With the rectangle `K(u) = 1 if |u| < 1/2 else 0` and bandwidth `eps`:
`d JumpReLU / d threshold = -(threshold / eps) K((pre - threshold) / eps)` and
`d step / d threshold = -(1 / eps) K((pre - threshold) / eps)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.pairs import (
    PairGradients,
    Pairs,
    active_products,
    decode_active,
    joined_pairs,
    summed_by_feature,
    weight_gradients,
)
from vlmdiff.dictionaries.topk import chunk_rows
from vlmdiff.kernels.above_threshold import count_above, list_above

# Fraction of active pre-activations from which dense products are faster than sums over pairs.
DENSEST = 1 / 16


def window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Return where a pre-activation lies within half a bandwidth of its threshold."""
    return (pre - threshold).abs() < bandwidth / 2


class JumpReLU(torch.autograd.Function):
    """`pre` where it exceeds `threshold`, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Apply the activation."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Pass gradients to active features, and to thresholds through the rectangle."""
        pre, threshold = ctx.saved_tensors
        near = (gradient * window(pre, threshold, ctx.bandwidth)).sum(dim=0)
        return gradient * (pre > threshold), -threshold / ctx.bandwidth * near, None


class Step(torch.autograd.Function):
    """1 where `pre` exceeds `threshold`, 0 elsewhere; summed over features it is the L0."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Apply the step."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        """Pass gradients to thresholds alone."""
        pre, threshold = ctx.saved_tensors
        near = (gradient * window(pre, threshold, ctx.bandwidth)).sum(dim=0)
        return None, -near / ctx.bandwidth, None


@dataclass(frozen=True)
class JumpPairs:
    """The pairs above their thresholds, and those in the rectangle around them (whose values are all 1)."""

    active: Pairs
    near: Pairs


def jump_pairs(
    x: Float[Tensor, "n d_model"], W_enc: Tensor, b_enc: Tensor, threshold: Tensor, bandwidth: float
) -> JumpPairs | None:
    """List the active pairs of a batch on a CPU, by chunks; None if too many are active to gain by it."""
    rows, chunks = chunk_rows(W_enc.shape[1], x.device), []
    buffer = torch.empty(min(len(x), rows), W_enc.shape[1])
    with torch.no_grad():
        for part in x.split(rows):
            pre = torch.addmm(b_enc, part, W_enc, out=buffer[: len(part)])
            chunks.append(chunk_pairs(pre.numpy(), threshold.detach().numpy(), np.float32(bandwidth / 2)))
            if len(chunks[0].active.columns) > DENSEST * chunks[0].size:
                return None
    return JumpPairs(joined_pairs([one.active for one in chunks]), joined_pairs([one.near for one in chunks]))


def jump_pairs_on_device(
    loops: ModuleType,
    x: Float[Tensor, "n d_model"],
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
) -> JumpPairs | None:
    """Do what `jump_pairs` does by a GPU's loops."""
    rows, chunks = chunk_rows(W_enc.shape[1], x.device), []
    with torch.no_grad():
        for part in x.split(rows):
            pre = torch.mm(part, W_enc)
            *active, near_begins, near = loops.pairs_above(pre, b_enc, threshold, bandwidth / 2)
            if len(active[1]) > DENSEST * pre.numel():
                return None
            ones = torch.ones(len(near), device=x.device)
            chunks.append(JumpPairs(Pairs(*active), Pairs(near_begins, near, ones)))
    return JumpPairs(joined_pairs([one.active for one in chunks]), joined_pairs([one.near for one in chunks]))


@dataclass(frozen=True)
class ChunkPairs(JumpPairs):
    """The pairs of one chunk of tokens.

    Attributes:
        size: pre-activations of the chunk.
    """

    size: int


def chunk_pairs(pre: np.ndarray, threshold: np.ndarray, half: np.float32) -> ChunkPairs:
    """List the pairs of a chunk `(rows, d_sae)` of pre-activations."""
    above, near = np.empty(len(pre), np.int64), np.empty(len(pre), np.int64)
    count_above(pre, threshold, half, above, near)
    begins, near_begins = (np.concatenate([[0], counts.cumsum()]) for counts in (above, near))
    columns, near_columns = np.empty(begins[-1], np.int64), np.empty(near_begins[-1], np.int64)
    values = np.empty(begins[-1], np.float32)
    list_above(pre, threshold, half, begins, columns, values, near_begins, near_columns)
    ones = np.ones(len(near_columns), np.float32)
    active = Pairs(*map(torch.from_numpy, (begins, columns, values)))
    return ChunkPairs(active, Pairs(*map(torch.from_numpy, (near_begins, near_columns, ones))), pre.size)


class SparseJumpReLU(torch.autograd.Function):
    """Reconstruction and L0 of a JumpReLU dictionary through its active pairs alone.

    Gradients are those of `JumpReLU` and `Step`; `keep` as for `topk.SparseReconstruction`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        threshold: Tensor,
        found: JumpPairs,
        bandwidth: float,
        subtract_decoder_bias: bool,
        keep: Callable[[PairGradients], None] | None,
    ) -> tuple[Tensor, Tensor]:
        """Return `x_hat (n, d_model)` and the mean number of active features a token."""
        ctx.save_for_backward(x, W_enc, W_dec, threshold)
        ctx.found, ctx.bandwidth = found, bandwidth
        ctx.subtract_decoder_bias, ctx.keep = subtract_decoder_bias, keep
        return decode_active(found.active, W_dec, b_dec), x.new_tensor(len(found.active.columns) / len(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, l0_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of weights by sums over active pairs, of thresholds by sums over near ones."""
        x, W_enc, W_dec, threshold = ctx.saved_tensors
        found = PairGradients(
            ctx.found.active, active_products(gradient, ctx.found.active, W_dec), x, gradient
        )
        near = ctx.found.near
        through = threshold[near.columns] * active_products(gradient, near, W_dec) + l0_gradient / len(x)
        g_threshold = summed_by_feature(through, near, len(threshold)).div_(-ctx.bandwidth)
        if ctx.keep is not None:
            ctx.keep(found)
            return (*(None,) * 5, g_threshold, *(None,) * 4)
        weights = weight_gradients(found, W_enc, ctx.subtract_decoder_bias)
        return None, *weights, g_threshold, None, None, None, None

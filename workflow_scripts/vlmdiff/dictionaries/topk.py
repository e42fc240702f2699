"""Reconstruction of a TopK dictionary through its active features only.

All weight gradients of a TopK dictionary are sparse: only the forward product of the encoder is
dense. The other products are sums over the `n * k` active pairs of token and feature.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlmdiff.dictionaries.loops import DEVICE_LOOPS, compiled_loops_fit
from vlmdiff.dictionaries.pairs import (
    PairGradients,
    Pairs,
    active_products,
    arrays,
    decode_active,
    weight_gradients,
)
from vlmdiff.kernels.largest import select_largest


def chunk_rows(width: int, device: torch.device) -> int:
    """Return how many rows of `width` pre-activations to work on at once.

    On a CPU a chunk stays in the cache; an accelerator is better off with large ones.
    """
    return max(512, (2**18 if device.type == "cpu" else 2**26) // width)


def encode_topk(
    x: Float[Tensor, "n d_model"], W_enc: Tensor, b_enc: Tensor, k: int, precision: str = "fp32"
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Return values and columns of the `k` largest pre-activations of each token.

    Works through chunks of tokens, so that no `(n, d_sae)` matrix goes through main memory.

    Args:
        x: what the encoder multiplies.
        W_enc, b_enc: the encoder.
        k: how many.
        precision: with `bf16` a GPU's loops look for candidates in bfloat16, a quarter more than are wanted,
            and choose among these in float32.

    Raises:
        ValueError: there are fewer features than `k`.
    """
    n, width = len(x), W_enc.shape[1]
    if not 1 <= k <= width:
        raise ValueError(f"k must lie between 1 and the number of features, {width}; found {k}")
    rows = chunk_rows(width, x.device)
    loops = DEVICE_LOOPS.fitting(x, W_enc)
    if loops and k <= loops.GROUPS:
        rescored = precision == "bf16" and more_than(k) <= min(width, loops.GROUPS)
        choose = choose_rescored if rescored else choose_exactly
        parts = [choose(loops, part, W_enc, b_enc, k) for part in x.split(rows)]
        return torch.cat([values for values, _ in parts]), torch.cat([columns for _, columns in parts])
    if not compiled_loops_fit(x, W_enc):
        parts = [
            torch.topk(torch.addmm(b_enc, part, W_enc), k, dim=1, sorted=False) for part in x.split(rows)
        ]
        return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
    values, columns = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
    buffer = torch.empty(min(n, rows), width)
    with torch.no_grad():
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            products = torch.mm(x[part], W_enc, out=buffer[: len(x[part])])
            select_largest(*arrays(products, b_enc, values[part], columns[part]))
    return values, columns


def choose_exactly(
    loops: ModuleType, x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Return values and columns of the `k` largest pre-activations of a chunk, by a GPU's loops."""
    return loops.largest_of_rows(torch.mm(x, W_enc), b_enc, k)


def more_than(k: int) -> int:
    """Return how many candidates are found in bfloat16 for `k` that are wanted."""
    return k + max(8, k // 4)


def choose_rescored(
    loops: ModuleType, x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Do what `choose_exactly` does, among candidates from a product in bfloat16."""
    wide = more_than(k)
    _, columns = loops.largest_of_rows(torch.mm(x.bfloat16(), W_enc.bfloat16()), b_enc, wide)
    begins = torch.arange(0, (len(x) + 1) * wide, wide, device=x.device)
    flat, every = columns.flatten(), torch.ones(columns.numel(), device=x.device)
    products = loops.pair_products(x.contiguous(), begins, flat, every, W_enc.T.contiguous())
    values = products.view_as(columns) + b_enc[columns]
    chosen = values.topk(k, dim=1).indices.sort(dim=1).values
    return values.gather(1, chosen), columns.gather(1, chosen)


def topk_pairs(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, divisor: Tensor | None = None, precision: str = "fp32"
) -> Pairs:
    """Return the `k` largest pre-activations of each token after ReLU, times any divisors, as pairs."""
    values, columns = encode_topk(x, W_enc, b_enc, k, precision)
    begins = torch.arange(0, (len(x) + 1) * k, k, device=x.device)
    pairs = Pairs(begins, columns.flatten(), values.flatten().relu_())
    if divisor is not None:
        pairs.values.mul_(divisor[pairs.columns])
    return pairs


def pair_gradients(ctx: Any, gradient: Tensor, biased: int | None = None) -> PairGradients:
    """Return what the weight gradients of a reconstruction are sums of.

    Args:
        ctx: of its forward pass, with `pairs` and `divisor`, and `x`, `W_enc` and `W_dec` saved.
        gradient: of the reconstruction, `(n, d_model)`.
        biased: as for `PairGradients`.
    """
    x, _, W_dec = ctx.saved_tensors
    products = active_products(gradient, ctx.pairs, W_dec)
    if ctx.divisor is not None:
        products.mul_(ctx.divisor[ctx.pairs.columns])
    return PairGradients(ctx.pairs, products, x, gradient, biased)


def kept_or_summed(ctx: Any, found: PairGradients) -> tuple[Tensor | None, ...]:
    """Return the gradients of the four weights; or none, and hand the pairs to `ctx.keep` if it is there."""
    if ctx.keep is not None:
        ctx.keep(found)
        return (None,) * 4
    return weight_gradients(found, ctx.saved_tensors[1], ctx.subtract_decoder_bias)


class SparseReconstruction(torch.autograd.Function):
    """`divisor relu(topk((x - offset) W_enc + b_enc)) W_dec + b_dec` through the active features alone.

    `choose` returns the active pairs of `x - offset`: what `topk` stands for. `offset` is `b_dec` or zero,
    `divisor` one if left out. No gradient is returned for `x`, which is data.
    With `keep`, a function, no gradient is returned at all: `keep` receives the active pairs of which the
    gradients are sums.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        choose: Callable[[Tensor], Pairs],
        subtract_decoder_bias: bool,
        keep: Callable[[PairGradients], None] | None = None,
        divisor: Tensor | None = None,
    ) -> tuple[Tensor, Pairs]:
        """Return `x_hat (n, d_model)` and the active pairs."""
        x = x - b_dec if subtract_decoder_bias else x
        pairs = choose(x)
        ctx.save_for_backward(x, W_enc, W_dec)
        ctx.pairs, ctx.subtract_decoder_bias, ctx.keep = pairs, subtract_decoder_bias, keep
        ctx.divisor = divisor
        return decode_active(pairs, W_dec, b_dec), pairs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        """Return gradients of all weights by sums over the active pairs."""
        return None, *kept_or_summed(ctx, pair_gradients(ctx, gradient)), None, None, None, None

"""Matryoshka dictionaries: BatchTopK whose first features reconstruct by themselves (arXiv 2503.17547).

The features are cut into levels. Reconstruction `m` is `b_dec` plus what the active features of the first `m`
levels stand for; the last one is that of the whole dictionary. The loss is the mean over them. Each is the
one before plus a sum over the active pairs of one level, so all together take as many products as the whole
one alone. In use such a dictionary is a JumpReLU one, as BatchTopK is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.batch_topk import BatchTopKDictionary
from vlmdiff.dictionaries.modules import Reconstruction
from vlmdiff.dictionaries.pairs import (
    PairGradients,
    Pairs,
    active_products,
    count_active,
    counted,
    decode_active,
)
from vlmdiff.dictionaries.topk import kept_or_summed


class MatryoshkaDictionary(BatchTopKDictionary):
    """Keeps the largest pre-activations of a batch, and reconstructs by each prefix of its features.

    Args:
        d_model, d_sae, k, subtract_decoder_bias: as for every BatchTopK dictionary.
        prefixes: how many features each prefix has, rising; the last one is `d_sae`.
    """

    kind = "matryoshka"

    def __init__(
        self, d_model: int, d_sae: int, k: int, prefixes: Sequence[int], subtract_decoder_bias: bool = True
    ):
        super().__init__(d_model, d_sae, k, subtract_decoder_bias)
        if list(prefixes) != sorted(set(prefixes)) or prefixes[0] < 1 or prefixes[-1] != d_sae:
            raise ValueError(f"prefixes must rise from 1 or more to d_sae = {d_sae}; found {list(prefixes)}")
        self.prefixes = tuple(prefixes)

    def reconstruct(self, x: Float[Tensor, "n d_model"]) -> Reconstruction:
        """Reconstruct by every prefix through the active features alone, forwards and backwards."""
        by_prefix, pairs = NestedReconstruction.apply(
            x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.choose, self.subtract_decoder_bias,
            self.prefixes, self._keeper(),
        )  # fmt: skip
        if torch.is_grad_enabled():
            self.watch(pairs)
        firings = count_active(pairs, self.d_sae)
        *shorter, x_hat = by_prefix.unbind()
        return Reconstruction(x_hat, firings.sum() / x.shape[0], firings, tuple(shorter))


def by_level(pairs: Pairs, prefixes: Sequence[int]) -> Pairs:
    """Sort the pairs of `n` tokens by level, as if each level had `n` tokens of its own.

    Args:
        pairs: active pairs.
        prefixes: as for `MatryoshkaDictionary`; level `m` has the features from the end of prefix `m - 1` on.
    """
    n, levels = len(pairs.begins) - 1, len(prefixes)
    ends = torch.tensor(prefixes[:-1], device=pairs.columns.device)
    rows = torch.bucketize(pairs.columns, ends, right=True) * n + pairs.tokens()
    order = rows.argsort(stable=True)
    begins = torch.zeros(levels * n + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(counted(rows, torch.ones_like(rows), levels * n), dim=0, out=begins[1:])
    return Pairs(begins, pairs.columns[order], pairs.values[order])


class NestedReconstruction(torch.autograd.Function):
    """`x_hat` by each prefix of the features, through the active ones alone.

    Arguments as for `topk.SparseReconstruction`, and `prefixes` of the dictionary. A feature's gradient is
    that of all reconstructions that it is part of; `b_dec` is part of all.
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
        prefixes: Sequence[int],
        keep: Callable[[PairGradients], None] | None = None,
    ) -> tuple[Float[Tensor, "prefixes n d_model"], Pairs]:
        """Return the reconstructions and the active pairs."""
        x = x - b_dec if subtract_decoder_bias else x
        pairs = choose(x)
        ctx.save_for_backward(x, W_enc, W_dec)
        ctx.pairs, ctx.subtract_decoder_bias, ctx.keep = (
            by_level(pairs, prefixes),
            subtract_decoder_bias,
            keep,
        )
        sums = decode_active(ctx.pairs, W_dec, torch.zeros_like(b_dec)).view(len(prefixes), *x.shape)
        sums[0] += b_dec
        for level in range(1, len(sums)):
            sums[level] += sums[level - 1]
        return sums, pairs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        """Return gradients of all weights by sums over the active pairs."""
        x, _, W_dec = ctx.saved_tensors
        reaching = gradient.clone(memory_format=torch.contiguous_format)
        for level in reversed(range(len(reaching) - 1)):
            reaching[level] += reaching[level + 1]
        rows = reaching.flatten(0, 1)
        products = active_products(rows, ctx.pairs, W_dec)
        # The first level is part of every reconstruction, as `b_dec` is: the same gradient reaches both.
        found = PairGradients(ctx.pairs, products, x.repeat(len(gradient), 1), rows, biased=len(x))
        return None, *kept_or_summed(ctx, found), None, None, None, None

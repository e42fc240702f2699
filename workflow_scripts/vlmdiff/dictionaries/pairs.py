"""Sums over active pairs of token and feature: what a sparse dictionary does beside its encoder's product.

On a CPU in float32 compiled loops do them (`vlmdiff.kernels`), on a GPU Triton's, else torch's operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from vlmdiff.dictionaries.loops import DEVICE_LOOPS, compiled_loops_fit
from vlmdiff.kernels.pair_sums import count_pairs, decode_pairs, pair_products

PRODUCTS_AT_ONCE = 2**26  # values


@dataclass(frozen=True)
class Pairs:
    """Active pairs in the order of tokens.

    Attributes:
        begins: the pairs of token `i` are `begins[i]:begins[i + 1]`.
        columns: feature of each pair.
        values: its activation; 0 where ReLU has switched it off.
    """

    begins: Int64[Tensor, " n_and_1"]
    columns: Int64[Tensor, " pairs"]
    values: Float[Tensor, " pairs"]

    def tokens(self) -> Int64[Tensor, " pairs"]:
        """Return the token of each pair; told the length, a device need not be waited for."""
        counts = self.begins.diff()
        tokens = torch.arange(len(counts), device=counts.device)
        return torch.repeat_interleave(tokens, counts, output_size=len(self.columns))


def nonzero_pairs(z: Float[Tensor, "n d_sae"]) -> Pairs:
    """Return the pairs of dense activations that are not zero."""
    tokens, columns = torch.nonzero(z, as_tuple=True)
    begins = torch.bincount(tokens + 1, minlength=len(z) + 1).cumsum(0)
    return Pairs(begins, columns, z[tokens, columns])


def joined_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Put the pairs of consecutive tokens one after the other."""
    counts = torch.cat([part.begins.diff() for part in parts])
    begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Pairs(
        begins, torch.cat([part.columns for part in parts]), torch.cat([part.values for part in parts])
    )


@dataclass(frozen=True)
class PairGradients:
    """What the weight gradients of one batch are sums of.

    Attributes:
        pairs: the active pairs.
        products: gradient of each pair's pre-activation.
        x: input of the encoder, `b_dec` subtracted if it is.
        gradient: of the reconstruction.
        biased: `b_dec` was added to the first so many reconstructions; None: to all.
    """

    pairs: Pairs
    products: Float[Tensor, " pairs"]
    x: Float[Tensor, "n d_model"]
    gradient: Float[Tensor, "n d_model"]
    biased: int | None = None

    @property
    def offset_gradient(self) -> Float[Tensor, "biased d_model"]:
        """Gradients that reach `b_dec` through the reconstruction."""
        return self.gradient[: self.biased]


def stacked(parts: Sequence[PairGradients]) -> PairGradients:
    """Put several reconstructions of one batch one after the other, as if each had tokens of its own."""
    if len(parts) == 1:
        return parts[0]
    parts = sorted(parts, key=lambda part: part.biased == 0)
    return PairGradients(
        joined_pairs([part.pairs for part in parts]),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("products", "x", "gradient")),
        sum(len(part.offset_gradient) for part in parts),
    )


def arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """Return tensors as arrays that share their memory, row by row."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def decode_active(pairs: Pairs, W_dec: Tensor, b_dec: Tensor) -> Float[Tensor, "n d_model"]:
    """Return `b_dec + sum over a token's pairs of value * W_dec[feature]`."""
    begins, columns, values = pairs.begins, pairs.columns, pairs.values
    if loops := DEVICE_LOOPS.fitting(values, W_dec):
        return loops.decode_pairs(begins, columns, values, W_dec, b_dec)
    if not compiled_loops_fit(values, W_dec):
        whole = embedding_bag(
            columns, W_dec, begins, per_sample_weights=values, mode="sum", include_last_offset=True
        )
        return whole.add_(b_dec)
    x_hat = torch.empty(len(begins) - 1, W_dec.shape[1])
    decode_pairs(*arrays(begins, columns, values, W_dec, b_dec, x_hat))
    return x_hat


def active_products(gradient: Tensor, pairs: Pairs, W_dec: Tensor) -> Float[Tensor, " pairs"]:
    """Return `gradient[token] . W_dec[feature]` of each pair, 0 where it is switched off."""
    if loops := DEVICE_LOOPS.fitting(gradient, W_dec):
        return loops.pair_products(gradient.contiguous(), pairs.begins, pairs.columns, pairs.values, W_dec)
    if compiled_loops_fit(gradient, W_dec):
        products = torch.empty(len(pairs.values))
        pair_products(*arrays(gradient, pairs.begins, pairs.columns, pairs.values, W_dec, products))
        return products
    size = max(1, PRODUCTS_AT_ONCE // W_dec.shape[1])
    parts = zip(pairs.tokens().split(size), pairs.columns.split(size))
    products = [(gradient[token] * W_dec[column]).sum(dim=1) for token, column in parts]
    return torch.cat(products) * (pairs.values > 0)


def count_active(pairs: Pairs, d_sae: int) -> Int64[Tensor, " d_sae"]:
    """Return for each feature on how many tokens it is active."""
    if not compiled_loops_fit(pairs.values):
        return counted(pairs.columns, pairs.values > 0, d_sae)
    counts = torch.zeros(d_sae, dtype=torch.int64)
    count_pairs(*arrays(pairs.columns, pairs.values, counts))
    return counts


def counted(columns: Tensor, fires: Tensor, d_sae: int) -> Int64[Tensor, " d_sae"]:
    """Return for each feature how many of its pairs are marked; a device is not waited for."""
    # Whole numbers have the same sum in any order.
    counts = torch.zeros(d_sae, dtype=torch.int64, device=columns.device)
    return counts.index_add_(0, columns, fires.long())


def by_feature(pairs: Pairs, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort pairs by feature.

    Returns:
        the order that sorts them, the token of each sorted pair, and for each feature where its pairs
        begin, with the end `(d_sae + 1,)`.
    """
    order = pairs.columns.argsort(stable=True)
    begins = torch.zeros(d_sae + 1, dtype=torch.int64, device=order.device)
    every = torch.ones_like(pairs.columns)
    torch.cumsum(counted(pairs.columns, every, d_sae), dim=0, out=begins[1:])
    return order, pairs.tokens()[order], begins


def sum_by_feature(weights: Tensor, rows: Tensor, grouping: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """For each feature sum `weight * rows[token]` over its pairs: `(pairs,), (n, d) -> (d_sae, d)`."""
    order, token, begins = grouping
    return embedding_bag(
        token, rows, begins, per_sample_weights=weights[order], mode="sum", include_last_offset=True
    )


def totals_by_feature(
    values: Float[Tensor, " pairs"], grouping: tuple[Tensor, Tensor, Tensor]
) -> Float[Tensor, " d_sae"]:
    """For each feature sum the values of its pairs, in their order: the same bits in every run."""
    order, _, begins = grouping
    return torch.segment_reduce(values[order], "sum", offsets=begins, initial=0)


def summed_by_feature(values: Float[Tensor, " pairs"], pairs: Pairs, d_sae: int) -> Float[Tensor, " d_sae"]:
    """For each feature sum the values of its pairs: on a processor as they come, on a device by groups."""
    if values.device.type == "cpu":
        return torch.zeros(d_sae, dtype=values.dtype).index_add_(0, pairs.columns, values)
    return totals_by_feature(values, by_feature(pairs, d_sae))


def weight_gradients(
    found: PairGradients, W_enc: Tensor, subtract_decoder_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `W_enc`, `b_enc`, `W_dec` and `b_dec`, written out."""
    d_sae, gradient = W_enc.shape[1], found.gradient.contiguous()
    grouping = by_feature(found.pairs, d_sae)
    b_enc = totals_by_feature(found.products, grouping)
    b_dec = found.offset_gradient.sum(dim=0)
    if subtract_decoder_bias:
        b_dec = b_dec - W_enc @ b_enc
    encoder = sum_by_feature(found.products, found.x, grouping).T.contiguous()
    return encoder, b_enc, sum_by_feature(found.pairs.values, gradient, grouping), b_dec

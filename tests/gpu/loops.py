"""Triton's loops on random shapes against torch's operations in float64, and two calls bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from outcomes import Row, Setting, at_most
from torch import Tensor

from vlmdiff.dictionaries.loops import DEVICE_LOOPS
from vlmdiff.dictionaries.pairs import PairGradients, Pairs, by_feature, nonzero_pairs, weight_gradients

NAME = "loops"
ROUNDING = 1e-4
# (tokens, d_model, d_sae, k)
SHAPES = ((7, 96, 1000, 3), (300, 768, 6000, 32), (512, 2304, 16384, 50), (256, 4096, 32768, 50))
SMALL = ((5, 20, 70, 4), (9, 33, 1300, 7))


def rows(setting: Setting) -> list[Row]:
    """Compare every loop at every shape."""
    if DEVICE_LOOPS.module is None:
        return [
            Row(NAME, "", "not in use", note="no Triton, or it failed its check (see the log)", holds=None)
        ]
    found = []
    for seed, shape in enumerate(SMALL if setting.small else SHAPES):
        with torch.device(setting.device):
            torch.manual_seed(seed)
            size = "{} tokens, {} x {}, k {}".format(*shape)
            for what, call, expected in loops(*shape):
                first, second = call(), call()
                found.append(at_most(NAME, size, what, difference(first, expected), ROUNDING))
                equal = all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
                found.append(Row(NAME, size, f"{what}: two calls are equal bit for bit", holds=equal))
    return found


def difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Return the largest difference as a fraction of the largest expected value."""
    errors = [
        float((one.double() - two.double()).abs().max() / two.double().abs().max().clamp(min=1e-30))
        for one, two in zip(found, expected, strict=True)
    ]
    return max(errors)


Case = tuple[str, Callable[[], tuple[Tensor, ...]], tuple[Tensor, ...]]


def loops(n: int, d_model: int, d_sae: int, k: int) -> Iterator[Case]:
    """Yield what is called, how, and what it should return."""
    use = DEVICE_LOOPS.module
    pre, bias, threshold = torch.randn(n, d_sae), torch.randn(d_sae), torch.rand(d_sae) + 2.0
    whole = pre + bias
    expected = whole.topk(k, dim=1).indices.sort(dim=1).values
    yield "selection", lambda: use.largest_of_rows(pre, bias, k), (whole.gather(1, expected), expected)
    above, near = whole > threshold, (whole - threshold).abs() < 0.05
    yield (
        "pairs above thresholds",
        lambda: use.pairs_above(pre, bias, threshold, 0.05),
        (starts(above), above.nonzero()[:, 1], whole[above], starts(near), near.nonzero()[:, 1]),
    )
    z = torch.zeros(n, d_sae).scatter(1, expected, whole.gather(1, expected).relu())
    yield from sums(nonzero_pairs(z), z, d_model, d_sae)


def starts(marked: Tensor) -> Tensor:
    """Return where the marks of each row begin, and the end."""
    return torch.cat([marked.new_zeros(1, dtype=torch.int64), marked.sum(dim=1).cumsum(0)])


def sums(pairs: Pairs, z: Tensor, d_model: int, d_sae: int) -> Iterator[Case]:
    """Yield the loops over active pairs; `z` holds the same densely."""
    use, n = DEVICE_LOOPS.module, len(z)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_model))
    b_dec, x, gradient = torch.randn(d_model), torch.randn(n, d_model), torch.randn(n, d_model)
    given = (pairs.begins, pairs.columns, pairs.values)
    yield (
        "decoding",
        lambda: (use.decode_pairs(*given, W_dec, b_dec),),
        (z.double() @ W_dec.double() + b_dec,),
    )
    inner = (gradient.double() @ W_dec.double().T)[pairs.tokens(), pairs.columns]
    yield "inner products", lambda: (use.pair_products(gradient, *given, W_dec),), (inner,)
    products = torch.randn(len(pairs.values))
    order, tokens, begins = by_feature(pairs, d_sae)
    grouping = (begins, order, tokens)
    encoder, b_enc, decoder, _ = weight_gradients(
        PairGradients(pairs, products, x, gradient), torch.zeros(d_model, d_sae), False
    )
    decoder -= (decoder * W_dec).sum(dim=1, keepdim=True) * W_dec
    squares = encoder.square().sum(0) + b_enc.square() + decoder.square().sum(1)
    yield (
        "squared norms of gradients",
        lambda: (use.square_norms(grouping, products, pairs.values, x, gradient, W_dec),),
        (squares,),
    )

    def step() -> tuple[Tensor, ...]:
        rows_ = [torch.zeros(d_sae, d_model) for _ in range(2)]
        groups = [torch.ones(d_sae, d_model), *rows_], [W_dec.clone(), *(one.clone() for one in rows_)]
        bias = [torch.zeros(d_sae) for _ in range(3)]
        settings = (0.9, 0.999, 0.0, 1.0, 1e-8)
        use.update_features(
            grouping, products, pairs.values, x, gradient, *map(tuple, groups), tuple(bias), settings
        )
        return groups[0][1], groups[1][1], bias[1], groups[1][0]

    # At a rate of 0 the first moments are a tenth of the gradients, and weights stay.
    yield "gradients by feature", step, (0.1 * encoder.T, 0.1 * decoder, 0.1 * b_enc, W_dec)

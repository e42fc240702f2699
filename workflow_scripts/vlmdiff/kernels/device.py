"""What the compiled loops do, in Triton: exact top-k, sums over active pairs, one pass over all features.

Every sum runs in a fixed order and nothing is added atomically, so that two runs on one device agree in every
bit. Nothing here waits for the device. Sums over `d_model` are taken in one block each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Groups of a row whose maxima bound its k-th largest value from below; they have as many members as it takes.
GROUPS = 1024
# Candidates of a row that are looked at together. A row with more of them is searched as a whole.
CANDIDATES = 512
LEAST = tl.constexpr(-(2**31))
DECODE_BLOCK = 1024

Grouping = tuple[Tensor, Tensor, Tensor]


@triton.jit
def sort_key(value):
    """Return integers in the order of some floats; NaN is the largest, as in `torch.topk`."""
    bits = value.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(value != value, 0x7FFFFFFF, key)


@triton.jit
def kth_largest(keys, k):
    """Return the k-th largest of a block of keys: the largest number that at least k of them reach."""
    found = tl.full([], LEAST, tl.int32)
    if tl.sum((keys >= 0).to(tl.int32), 0) >= k:
        found = tl.full([], 0, tl.int32)
    for bit in tl.static_range(30, -1, -1):
        higher = found | (1 << bit)
        reached = tl.sum((keys >= higher).to(tl.int32), 0) >= k
        found = tl.where(reached, higher, found)
    return found


@triton.jit
def keys_at(rows, bias, row, first, width, GROUPS: tl.constexpr):
    """Return columns, keys and values of a part of a row with its bias; keys beyond its end are the least."""
    columns = first + tl.arange(0, GROUPS)
    inside = columns < width
    value = tl.load(rows + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + columns, mask=inside, other=0.0)
    return columns, tl.where(inside, sort_key(value), LEAST), value


@triton.jit
def select_rows(
    rows, bias, kept, values, columns, width, k, GROUPS: tl.constexpr, CANDIDATES: tl.constexpr
):  # fmt: skip
    """Write the k largest values of a row, in the order of columns; of equal ones the first."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.full([GROUPS], LEAST, tl.int32)
    for first in range(0, width, GROUPS):
        _, keys, _ = keys_at(rows, bias, row, first, width, GROUPS)
        largest = tl.maximum(largest, keys)
    bound = kth_largest(largest, k)
    count = 0
    for first in range(0, width, GROUPS):
        _, keys, _ = keys_at(rows, bias, row, first, width, GROUPS)
        reaches = keys >= bound
        place = count + tl.cumsum(reaches.to(tl.int32), 0) - 1
        tl.store(kept + row * CANDIDATES + place, keys, mask=reaches & (place < CANDIDATES))
        count += tl.sum(reaches.to(tl.int32), 0)
    tl.debug_barrier()
    if count <= CANDIDATES:
        place = tl.arange(0, CANDIDATES)
        few = tl.load(kept + row * CANDIDATES + place, mask=place < count, other=-(2**31))
        kth = kth_largest(few, k)
    else:
        kth = bound
        low = bound.to(tl.int64)
        high = tl.max(largest, 0).to(tl.int64)
        while low < high:
            middle = low + (high - low + 1) // 2
            reached = 0
            for first in range(0, width, GROUPS):
                _, keys, _ = keys_at(rows, bias, row, first, width, GROUPS)
                reached += tl.sum((keys >= middle).to(tl.int32), 0)
            if reached >= k:
                low = middle
            else:
                high = middle - 1
        kth = low.to(tl.int32)
    larger = 0
    for first in range(0, width, GROUPS):
        _, keys, _ = keys_at(rows, bias, row, first, width, GROUPS)
        larger += tl.sum((keys > kth).to(tl.int32), 0)
    written = 0
    equal = 0
    for first in range(0, width, GROUPS):
        at, keys, value = keys_at(rows, bias, row, first, width, GROUPS)
        same = (keys == kth) & (at < width)
        rank = equal + tl.cumsum(same.to(tl.int32), 0)
        chosen = (keys > kth) | (same & (rank <= k - larger))
        place = written + tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(values + row * k + place, value, mask=chosen)
        tl.store(columns + row * k + place, at.to(tl.int64), mask=chosen)
        written += tl.sum(chosen.to(tl.int32), 0)
        equal += tl.sum(same.to(tl.int32), 0)


@triton.jit
def count_rows(rows, bias, threshold, half, above, near, width, GROUPS: tl.constexpr):
    """Write how many values of a row exceed their thresholds, and how many lie within `half` of them."""
    row = tl.program_id(0).to(tl.int64)
    exceeding = 0
    close = 0
    for first in range(0, width, GROUPS):
        at, _, value = keys_at(rows, bias, row, first, width, GROUPS)
        inside = at < width
        limit = tl.load(threshold + at, mask=inside, other=0.0)
        exceeding += tl.sum((inside & (value > limit)).to(tl.int32), 0)
        close += tl.sum((inside & (tl.abs(value - limit) < half)).to(tl.int32), 0)
    tl.store(above + row, exceeding)
    tl.store(near + row, close)


@triton.jit
def list_rows(
    rows, bias, threshold, half, begins, columns, values, near_begins, near_columns, width,
    GROUPS: tl.constexpr,
):  # fmt: skip
    """Write what `count_rows` has counted, in the order of columns."""
    row = tl.program_id(0).to(tl.int64)
    at_above = tl.load(begins + row)
    at_near = tl.load(near_begins + row)
    for first in range(0, width, GROUPS):
        at, _, value = keys_at(rows, bias, row, first, width, GROUPS)
        inside = at < width
        limit = tl.load(threshold + at, mask=inside, other=0.0)
        above = inside & (value > limit)
        place = at_above + tl.cumsum(above.to(tl.int32), 0) - 1
        tl.store(columns + place, at.to(tl.int64), mask=above)
        tl.store(values + place, value, mask=above)
        close = inside & (tl.abs(value - limit) < half)
        place = at_near + tl.cumsum(close.to(tl.int32), 0) - 1
        tl.store(near_columns + place, at.to(tl.int64), mask=close)
        at_above += tl.sum(above.to(tl.int32), 0)
        at_near += tl.sum(close.to(tl.int32), 0)


@triton.jit
def decode_block(begins, columns, values, W_dec, b_dec, x_hat, width, BLOCK: tl.constexpr):
    """Write a part of a token's reconstruction."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    total = tl.load(b_dec + at, mask=inside, other=0.0)
    for pair in range(tl.load(begins + token), tl.load(begins + token + 1)):
        row = tl.load(columns + pair) * width
        total += tl.load(values + pair) * tl.load(W_dec + row + at, mask=inside, other=0.0)
    tl.store(x_hat + token * width + at, total, mask=inside)


@triton.jit
def multiply_pairs(left, begins, columns, values, right, products, width, BLOCK: tl.constexpr):
    """Write `left[token] . right[feature]` of a token's pairs, 0 where the value is not positive."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    own = tl.load(left + token * width + at, mask=inside, other=0.0)
    for pair in range(tl.load(begins + token), tl.load(begins + token + 1)):
        other = tl.load(right + tl.load(columns + pair) * width + at, mask=inside, other=0.0)
        product = tl.sum(own * other, 0)
        tl.store(products + pair, tl.where(tl.load(values + pair) > 0, product, 0.0))


@triton.jit
def feature_gradients(starts, pairs, tokens, products, values, x, gradient, width, BLOCK: tl.constexpr):
    """Return a feature's gradients of encoder, decoder and bias, summed over its pairs in their order."""
    feature = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    encoder = tl.zeros([BLOCK], tl.float32)
    decoder = tl.zeros([BLOCK], tl.float32)
    bias = 0.0
    for place in range(tl.load(starts + feature), tl.load(starts + feature + 1)):
        pair = tl.load(pairs + place)
        row = tl.load(tokens + place) * width + at
        product = tl.load(products + pair)
        encoder += product * tl.load(x + row, mask=inside, other=0.0)
        decoder += tl.load(values + pair) * tl.load(gradient + row, mask=inside, other=0.0)
        bias += product
    return encoder, decoder, bias


@triton.jit
def adam(weights, first, second, gradient, beta1, beta2, rate, root, eps):
    """Return weights and moments after a step (`vlmdiff.kernels.adam.adam_row`)."""
    first = first + (1.0 - beta1) * (gradient - first)
    second = beta2 * second + (1.0 - beta2) * gradient * gradient
    return weights - rate * first / (tl.sqrt_rn(second) * root + eps), first, second


@triton.jit
def not_finite(values):
    """Count values that are infinite or no number."""
    return tl.sum((tl.abs(values) < float("inf")).to(tl.int32) == 0, 0).to(tl.int32)


@triton.jit
def update_rows(
    starts, pairs, tokens, products, values, x, gradient,
    W_enc, m_enc, v_enc, W_dec, m_dec, v_dec, b_enc, m_bias, v_bias, broken,
    beta1, beta2, rate, root, eps, width, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update a feature's encoder column, decoder row and bias; write how many numbers are not finite then."""
    feature = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    place = feature * width + at
    encoder, decoder, bias = feature_gradients(
        starts, pairs, tokens, products, values, x, gradient, width, BLOCK
    )
    weights, first, second = adam(
        tl.load(W_enc + place, mask=inside, other=0.0),
        tl.load(m_enc + place, mask=inside, other=0.0),
        tl.load(v_enc + place, mask=inside, other=0.0),
        encoder, beta1, beta2, rate, root, eps,
    )  # fmt: skip
    tl.store(W_enc + place, weights, mask=inside)
    tl.store(m_enc + place, first, mask=inside)
    tl.store(v_enc + place, second, mask=inside)
    wrong = not_finite(weights) + not_finite(second)
    row = tl.load(W_dec + place, mask=inside, other=0.0)
    decoder -= tl.sum(decoder * row, 0) * row
    weights, first, second = adam(
        row,
        tl.load(m_dec + place, mask=inside, other=0.0),
        tl.load(v_dec + place, mask=inside, other=0.0),
        decoder, beta1, beta2, rate, root, eps,
    )  # fmt: skip
    norm = tl.sqrt_rn(tl.sum(weights * weights, 0))
    tl.store(W_dec + place, weights / tl.maximum(norm, 1e-12), mask=inside)
    tl.store(m_dec + place, first, mask=inside)
    tl.store(v_dec + place, second, mask=inside)
    wrong += not_finite(weights) + not_finite(second) + 1 - (norm < float("inf")).to(tl.int32)
    weight, mean, square = adam(
        tl.load(b_enc + feature), tl.load(m_bias + feature), tl.load(v_bias + feature),
        bias, beta1, beta2, rate, root, eps,
    )  # fmt: skip
    tl.store(b_enc + feature, weight)
    tl.store(m_bias + feature, mean)
    tl.store(v_bias + feature, square)
    tl.store(broken + feature, wrong)


@triton.jit
def square_rows(
    starts, pairs, tokens, products, values, x, gradient, W_dec, squares, width, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the squared norm of a feature's gradients, that of the decoder without its part along the row."""
    feature = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    encoder, decoder, bias = feature_gradients(
        starts, pairs, tokens, products, values, x, gradient, width, BLOCK
    )
    row = tl.load(W_dec + feature * width + at, mask=at < width, other=0.0)
    decoder -= tl.sum(decoder * row, 0) * row
    tl.store(squares + feature, tl.sum(encoder * encoder, 0) + tl.sum(decoder * decoder, 0) + bias * bias)


def largest_of_rows(rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of `rows + bias` in each row, with their columns, in the order of columns.

    Args:
        rows: (n, width) float32 or bfloat16; the sum is taken in float32.
        bias: (width,).
        k: at most `GROUPS`, and at most the width.
    """
    n, width = rows.shape
    values = torch.empty(n, k, device=rows.device)
    columns = torch.empty(n, k, dtype=torch.int64, device=rows.device)
    kept = torch.empty(n, CANDIDATES, dtype=torch.int32, device=rows.device)
    select_rows[(n,)](rows, bias, kept, values, columns, width, k, GROUPS, CANDIDATES, num_warps=8)
    return values, columns


def pairs_above(
    rows: Tensor, bias: Tensor, threshold: Tensor, half: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the pairs of `rows + bias` above their thresholds, and those within `half` of them.

    Waits for the device once, for the numbers of pairs.

    Args:
        rows: (n, width).
        bias, threshold: (width,).
        half: half of the rectangle's bandwidth.

    Returns:
        begins (n + 1,), columns and values of the first; begins and columns of the second.
    """
    n, width = rows.shape
    counts = torch.empty(2, n, dtype=torch.int32, device=rows.device)
    count_rows[(n,)](rows, bias, threshold, half, counts[0], counts[1], width, GROUPS, num_warps=8)
    begins = torch.zeros(2, n + 1, dtype=torch.int64, device=rows.device)
    begins[:, 1:] = counts.cumsum(dim=1)
    above, near = begins[:, -1].tolist()
    columns = torch.empty(above, dtype=torch.int64, device=rows.device)
    values = torch.empty(above, device=rows.device)
    near_columns = torch.empty(near, dtype=torch.int64, device=rows.device)
    list_rows[(n,)](
        rows, bias, threshold, half, begins[0], columns, values, begins[1], near_columns, width, GROUPS,
        num_warps=8,
    )  # fmt: skip
    return begins[0], columns, values, begins[1], near_columns


def decode_pairs(begins: Tensor, columns: Tensor, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """Return `b_dec + sum over a token's pairs of value * W_dec[feature]`, (n, d_model)."""
    n, width = len(begins) - 1, W_dec.shape[1]
    x_hat = torch.empty(n, width, device=W_dec.device)
    block = min(DECODE_BLOCK, triton.next_power_of_2(width))
    decode_block[(n, triton.cdiv(width, block))](begins, columns, values, W_dec, b_dec, x_hat, width, block)
    return x_hat


def pair_products(left: Tensor, begins: Tensor, columns: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """Return `left[token] . right[feature]` of each pair, 0 where it is switched off, (pairs,)."""
    products = torch.empty_like(values)
    width = right.shape[1]
    multiply_pairs[(len(begins) - 1,)](
        left, begins, columns, values, right, products, width, triton.next_power_of_2(width), num_warps=8
    )
    return products


def update_features(
    grouping: Grouping,
    products: Tensor,
    values: Tensor,
    x: Tensor,
    gradient: Tensor,
    encoder: tuple[Tensor, ...],
    decoder: tuple[Tensor, ...],
    bias: tuple[Tensor, ...],
    settings: tuple[float, ...],
) -> Tensor:
    """Update encoder columns, decoder rows and biases of all features by the gradients of their pairs.

    Args:
        grouping: where each feature's pairs begin (d_sae + 1,), then pair and token in this order.
        products, values: (pairs,) as for the compiled loops.
        x, gradient: (n, d_model).
        encoder: weights (d_sae, d_model), the encoder's columns as rows, and both moments; updated.
        decoder, bias: the same of the decoder and of b_enc.
        settings: (beta1, beta2, rate, root, eps).

    Returns:
        () how many weights, second moments or norms are not finite afterwards.
    """
    d_sae, width = decoder[0].shape
    broken = torch.empty(d_sae, dtype=torch.int32, device=x.device)
    update_rows[(d_sae,)](
        *grouping, products, values, x, gradient, *encoder, *decoder, *bias, broken, *settings,
        width, triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return broken.sum()


def square_norms(
    grouping: Grouping, products: Tensor, values: Tensor, x: Tensor, gradient: Tensor, W_dec: Tensor
) -> Tensor:
    """Return the squared norm of each feature's gradients, projected, as `update_features` takes them."""
    d_sae, width = W_dec.shape
    squares = torch.empty(d_sae, device=x.device)
    square_rows[(d_sae,)](
        *grouping, products, values, x, gradient, W_dec, squares, width, triton.next_power_of_2(width),
        num_warps=8,
    )  # fmt: skip
    return squares

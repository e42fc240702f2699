"""Sums of vectors whose order is fixed, and which vector instructions can do."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vlmdiff.kernels.compiled import compiled

LANES = 64
VECTOR = ir.VectorType(ir.FloatType(), LANES)


def load_lanes(builder: Any, data: Any, start: Any) -> Any:
    """Emit the loading of `LANES` floats from `data[start]` on."""
    place = builder.bitcast(builder.gep(data, [start]), VECTOR.as_pointer())
    return builder.load(place, align=4)


def halve(builder: Any, lanes: Any) -> Any:
    """Emit the sum of all lanes, halves added until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        masks = [[*range(start, start + width)] for start in (0, width)]
        low, high = (
            builder.shuffle_vector(
                lanes,
                ir.Constant(lanes.type, ir.Undefined),
                ir.Constant(ir.VectorType(ir.IntType(32), width), mask),
            )
            for mask in masks
        )
        lanes = builder.fadd(low, high)
    return builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0))


@intrinsic
def dot_lanes(typing_context, x, y):
    """Return the inner product of the first multiple of `LANES` values of two contiguous float32 vectors."""
    wanted = types.Array(types.float32, 1, "C")
    if not all(isinstance(one, types.Array) and one.copy(readonly=False) == wanted for one in (x, y)):
        return None

    def generate(context, builder, signature, arguments):
        one, two = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments)
        )
        size = builder.extract_value(one.shape, 0)
        lanes = ir.Constant(size.type, LANES)
        sums = cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * LANES))
        with cgutils.for_range(builder, builder.udiv(size, lanes)) as loop:
            start = builder.mul(loop.index, lanes)
            products = builder.fmul(
                load_lanes(builder, one.data, start), load_lanes(builder, two.data, start)
            )
            builder.store(builder.fadd(builder.load(sums), products), sums)
        return halve(builder, builder.load(sums))

    return types.float32(x, y), generate


@compiled
def dot(x, y):
    """Return the inner product of two contiguous float32 vectors."""
    total = dot_lanes(x, y)
    for c in range(len(x) // LANES * LANES, len(x)):
        total += x[c] * y[c]
    return total


@compiled
def add_one(total, weight, row):
    """Add `weight * row` to a vector."""
    for c in range(len(total)):
        total[c] += weight * row[c]


@compiled
def add_four(total, w0, row0, w1, row1, w2, row2, w3, row3):
    """Add four weighted rows to a vector, one after the other, while each of its values is at hand."""
    for c in range(len(total)):
        total[c] = (((total[c] + w0 * row0[c]) + w1 * row1[c]) + w2 * row2[c]) + w3 * row3[c]

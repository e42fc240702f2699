"""Logarithm and exponential by polynomials alone, so that loops over many of them use vector instructions."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vlmdiff.kernels.compiled import compiled

ATANH = tuple(1 / (2 * k + 1) for k in range(13))  # of s^2k: to 1e-17 for |s| <= 1/4
EXP = tuple(1 / math.factorial(k) for k in range(14))  # of r^k: to 1e-17 for |r| <= log(2) / 2
LOG2_E = 1 / math.log(2)
LOG_2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # few digits: exact times a small whole number
LOG_2_LOW = 1.9082149292705877e-10  # log(2) - LOG_2_HIGH
ROUND = 1.5 * 2.0**52  # added to a float64 it leaves its nearest whole number in the last bits
LEAST = -700.0  # below, a result of exp counts as exp(LEAST)


@intrinsic
def bits_of(typing_context: Any, number: Any) -> Any:
    """Return the bits of a float64 as an int64."""
    return types.int64(types.float64), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], ir.IntType(64)
    )


@intrinsic
def from_bits(typing_context: Any, bits: Any) -> Any:
    """Return the float64 that has the bits of an int64."""
    return types.float64(types.int64), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], ir.DoubleType()
    )


@compiled
def log_ratio(s):
    """Return log((1 + s) / (1 - s)) = 2 atanh(s), for -1/4 <= s <= 1/4; log(1 + u) is that of u / (2 + u)."""
    square, total = s * s, ATANH[12]
    for k in range(11, -1, -1):
        total = ATANH[k] + square * total
    return 2 * s * total


@compiled
def exponential(x):
    """Return exp(x) for x up to 700; exp(-700) below that."""
    x = max(x, LEAST)
    shifted = x * LOG2_E + ROUND
    power = shifted - ROUND
    r = (x - power * LOG_2_HIGH) - power * LOG_2_LOW
    total = EXP[13]
    for k in range(12, -1, -1):
        total = EXP[k] + r * total
    # The last bits of `shifted` are the power of two; in the place of the exponent they are the factor.
    return total * from_bits((bits_of(shifted) + 1023) << 52)

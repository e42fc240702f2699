"""Columns as scripts: a page that is opened from a disk may load scripts, and nothing else."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

# Bits of a float32's fraction that are kept: five more than three decimal digits need.
FRACTION_BITS = 15
# Gzip's effort: the highest takes three times as long and saves a hundredth.
EFFORT = 6


def rounded(values: np.ndarray) -> np.ndarray:
    """Round numbers to float32 with a short fraction, which compresses well; relative error 2^-16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    dropped = 23 - FRACTION_BITS
    special = ~np.isfinite(values)
    short = (bits + np.uint32(1 << (dropped - 1))) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    # Rounding may not turn the largest numbers, infinity or NaN into something else.
    kept = special | ~np.isfinite(short.view(np.float32))
    return np.where(kept, bits, short).view(np.float32)


def packed(columns: Iterable[np.ndarray]) -> str:
    """Return columns one after the other, gzipped, as base64; little-endian."""
    parts = [column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes() for column in columns]
    # No time in the header: the same columns give the same bytes.
    return base64.b64encode(gzip.compress(b"".join(parts), EFFORT, mtime=0)).decode()


def script(function: str, *values: Any) -> str:
    """Return a script that hands values to a function of the page.

    What stands in a string cannot end the script or break a line: `<`, U+2028 and U+2029 are escaped.
    """
    told = ", ".join(json.dumps(value, ensure_ascii=True, allow_nan=False) for value in values)
    return f"{function}({told.replace('<', chr(92) + 'u003c')});\n"

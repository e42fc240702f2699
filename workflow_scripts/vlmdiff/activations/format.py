"""The contract of an activation shard: names, header, errors, checksums (docs/understand/formats.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

SCHEMA = "vlmdiff-shard-5"
CHUNK_BYTES = 2 * 2**20
TOKEN_DTYPES = {"token_id": np.int32, "position": np.int32, "token_type": np.uint8}
STORED = {"float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2")}
# Bits of the exponent: all ones means NaN or infinity.
EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80}

Storage = Literal["float16", "bfloat16"]


class ShardError(ValueError):
    """A shard cannot be trusted, or may not be written; the message names the file and the remedy."""


@dataclass(frozen=True)
class ShardHeader:
    """Where a shard comes from, which tokens it holds and how their values are stored."""

    model: str
    dataset: str
    model_fingerprint: str
    dataset_fingerprint: str
    block: int
    d_model: int
    layers: tuple[int, ...]
    dtype: Storage
    token_types: tuple[str, ...] = ("image", "text")
    massive_ratio: float = 0.0


@dataclass(frozen=True)
class ShardContent:
    """Residuals and tokens of consecutive samples.

    Attributes:
        residual: for each layer (tokens, d_model), float16 or the bits of bfloat16 in uint16; zeros where
            the token is massive.
        token_id: (tokens,) token in the model's vocabulary.
        position: (tokens,) position in the model's sequence.
        token_type: (tokens,) codes of `vlmdiff.activations.tokens`.
        offsets: (samples + 1,) sample `i` owns tokens `offsets[i]:offsets[i + 1]`.
        sample_id: names of the samples.
        group: groups of the samples.
        massive: for each layer (tokens,) bool, tokens that are no data at this layer (`massive.py`); a layer
            that is not named has none.
    """

    residual: dict[int, np.ndarray]
    token_id: np.ndarray
    position: np.ndarray
    token_type: np.ndarray
    offsets: np.ndarray
    sample_id: list[str]
    group: list[str]
    massive: dict[int, np.ndarray] = field(default_factory=dict)

    def marks(self, layer: int) -> np.ndarray:
        """Return (tokens,) bool: which tokens are massive at a layer."""
        return self.massive.get(layer, np.zeros(len(self.token_id), dtype=bool))


def layer_name(layer: int) -> str:
    """Return the HDF5 name of a layer's residuals."""
    return f"residual/layer_{layer}"


def massive_name(layer: int) -> str:
    """Return the HDF5 name of the marks of a layer's massive tokens."""
    return f"massive/layer_{layer}"


def rows_per_chunk(d_model: int) -> int:
    """Return how many tokens of 16-bit values make a chunk of 2 MB."""
    return max(1, CHUNK_BYTES // (2 * d_model))


def chunk_cuts(start: int, stop: int, size: int) -> list[int]:
    """Return where rows `start:stop` are cut by chunks of `size` rows, both ends included."""
    return [start, *range(start - start % size + size, stop, size), stop]


def array_bytes(values: np.ndarray) -> memoryview:
    """Return an array's bytes, row by row, little-endian, without a copy where it is so already."""
    ordered = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return memoryview(ordered.reshape(-1).view(np.uint8))


def string_bytes(values: Sequence[str]) -> bytes:
    """Return the bytes that a list of strings is digested by: UTF-8, a zero byte after each."""
    return "\0".join([*values, ""]).encode()


def new_checksum() -> xxhash.xxh3_128:
    """Return an empty XXH3-128 checksum: it finds damage, at the speed of memory."""
    return xxhash.xxh3_128()


def checksum(values: np.ndarray | list[str]) -> str:
    """Return the checksum of an array's or a list of strings' bytes."""
    digest = new_checksum()
    digest.update(string_bytes(values) if isinstance(values, list) else array_bytes(values))
    return digest.hexdigest()


def header_checksum(header: ShardHeader) -> str:
    """Return the checksum of a header: of its values as JSON, keys in order."""
    return checksum([json.dumps(asdict(header), sort_keys=True)])


def check_finite(values: np.ndarray, layer: int, storage: Storage, path: Any) -> None:
    """Refuse NaN and infinity, which a value beyond float16's 65,504 becomes.

    Raises:
        ShardError: naming the layer and what to change.
    """
    from vlmdiff.kernels.bits import count_masked

    bits = np.ascontiguousarray(values).view(np.uint16).reshape(-1)
    wrong = count_masked(bits, EXPONENT[storage])
    if not wrong:
        return
    remedy = (
        "values above 65504 do not fit into float16: set `extraction.storage: bfloat16` in the config"
        if storage == "float16"
        else "the model itself yields NaN or infinity: set its `dtype` to float32 or bfloat16 in the config"
    )
    raise ShardError(
        f"{path}: layer {layer}: found {wrong} values that are NaN or infinite as {storage}; {remedy}"
    )


def remake(path: str | Path, found: str) -> ShardError:
    """Return the error for a shard that must be made again."""
    return ShardError(f"{path}: {found}. Delete the file and run snakemake again, which remakes it.")

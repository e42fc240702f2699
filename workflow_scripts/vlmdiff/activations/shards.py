"""Reading a shard: everything small is checked on opening, a layer's values when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmdiff.activations.format import (
    SCHEMA,
    STORED,
    TOKEN_DTYPES,
    ShardError,
    ShardHeader,
    checksum,
    chunk_cuts,
    header_checksum,
    layer_name,
    massive_name,
    new_checksum,
    remake,
    rows_per_chunk,
)
from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.hdf5 import open_hdf5

# Imported late: `open_hdf5` sets HDF5 up before it is loaded.
if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class Shard:
    """A shard whose header, tokens and samples are in memory; residuals are read in slabs."""

    path: Path
    header: ShardHeader
    token_id: np.ndarray
    position: np.ndarray
    token_type: np.ndarray
    offsets: np.ndarray
    sample_id: list[str]
    group: list[str]

    @property
    def n_tokens(self) -> int:
        """Stored tokens."""
        return len(self.token_id)

    @contextmanager
    def rows(self, layer: int) -> Iterator[Callable[[int, int], np.ndarray]]:
        """Open the file and yield a function of `start` and `stop`.

        It returns residuals (stop - start, d_model) as stored: float16, or bfloat16 bits in uint16.
        """
        with reading(self.path) as file:
            yield partial(read_rows, file[layer_name(layer)])

    def read(self, layer: int, start: int, stop: int) -> np.ndarray:
        """Return residuals (stop - start, d_model) as `rows` does."""
        with self.rows(layer) as read:
            return read(start, stop)

    def massive(self, layer: int) -> np.ndarray:
        """Return (tokens,) bool: tokens whose residual at a layer is no data.

        Raises:
            ShardError: the marks were altered.
        """
        with reading(self.path) as file:
            marks = file[massive_name(layer)]
            return checked(marks[:], marks, self.path).astype(bool)

    def verify(self, layers: tuple[int, ...] | None = None) -> None:
        """Compare the checksums of `layers` (all if None), reading each once from start to end.

        Raises:
            ShardError: a layer is missing or its values were altered.
        """
        layers = self.header.layers if layers is None else layers
        missing = [layer for layer in layers if layer not in self.header.layers]
        if missing:
            raise remake(self.path, f"layers {missing} are missing, found {list(self.header.layers)}")
        step = rows_per_chunk(self.header.d_model)
        row_bytes = self.header.d_model * STORED[self.header.dtype].itemsize
        chunk = bytearray(step * row_bytes)
        with reading(self.path) as file:
            for layer in layers:
                checked(file[massive_name(layer)][:], file[massive_name(layer)], self.path)
                dataset, digest = file[layer_name(layer)], new_checksum()
                left = self.n_tokens * row_bytes
                for start in range(0, self.n_tokens, step):
                    # Whole, as it lies in the file; it stays in the cache while it is digested.
                    dataset.id.read_direct_chunk((start, 0), out=chunk)
                    digest.update(memoryview(chunk)[:left])
                    left -= len(chunk)
                if digest.hexdigest() != plain(dataset.attrs["checksum"]):
                    raise remake(self.path, f"layer {layer} was altered (its checksum differs)")


def read_rows(dataset: h5py.Dataset, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return rows `start:stop`, in `out` if given; whole chunks as they lie, without HDF5's selections."""
    size = dataset.chunks[0]
    values = np.empty((stop - start, *dataset.shape[1:]), dataset.dtype) if out is None else out
    for first, last in pairwise(chunk_cuts(start, stop, size)):
        part = values[first - start : last - start]
        if len(part) == size:
            dataset.id.read_direct_chunk((first, 0), out=part.reshape(-1).view(np.uint8))
        else:
            dataset.read_direct(part, np.s_[first:last])
    return values


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read, with errors that name the file and the remedy.

    Raises:
        ShardError: the file is missing or damaged.
        StorageError: the system does not let us read it; the file may be whole.
    """
    if not path.is_file():
        raise ShardError(f"{path}: no such file; run snakemake, which makes it")
    try:
        # Without a cache of chunks a part of a chunk is read as such, not with the whole chunk around it.
        with open_hdf5(path, rdcc_nbytes=0) as file:
            yield file
    except ShardError:
        raise
    except Exception as error:  # damaged files make HDF5 fail in many ways
        damaged = remake(path, f"not a whole activation shard ({type(error).__name__}: {error})")
        raise not_read(path, error) or damaged from error


def open_shard(path: str | Path) -> Shard:
    """Open a shard: schema, header, shapes, types and the checksums of all small objects.

    Residuals are compared with their checksum by `Shard.verify`.

    Raises:
        ShardError: the file is missing, truncated, foreign or altered.
    """
    path = Path(path)
    with reading(path) as file:
        header = read_header(file, path)
        check_layout(file, header, path)
        arrays = {name: checked(file[name][:], file[name], path) for name in (*TOKEN_DTYPES, "offsets")}
        names = {
            name: checked([one.decode() for one in file[name][:].tolist()], file[name], path)
            for name in ("sample_id", "group")
        }
    check_offsets(arrays["offsets"], len(arrays["token_id"]), len(names["sample_id"]), path)
    return Shard(path, header, **arrays, **names)


def read_header(file: h5py.File, path: Path) -> ShardHeader:
    """Read and check the attributes."""
    schema = plain(file.attrs.get("schema"))
    if schema != SCHEMA:
        raise remake(path, f"schema is {schema!r}, expected {SCHEMA!r}")
    names = [field.name for field in fields(ShardHeader)]
    missing = [name for name in (*names, "checksum") if name not in file.attrs]
    if missing:
        raise remake(path, f"attributes {missing} are missing")
    values: dict[str, Any] = {name: plain(file.attrs[name]) for name in names}
    if values["dtype"] not in STORED:
        raise remake(path, f"dtype is {values['dtype']!r}, expected one of {list(STORED)}")
    header = ShardHeader(**values)
    if header_checksum(header) != plain(file.attrs["checksum"]):
        raise remake(path, "its attributes were altered (their checksum differs)")
    return header


def plain(value: Any) -> Any:
    """Turn an attribute into a plain Python value, an array into a tuple, bytes into text."""
    if isinstance(value, np.ndarray):
        return tuple(plain(one) for one in value.tolist())
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def check_layout(file: h5py.File, header: ShardHeader, path: Path) -> None:
    """Check that every object is there, in the file itself, with its shape and type."""
    by_layer = [name(layer) for layer in header.layers for name in (layer_name, massive_name)]
    required = [*TOKEN_DTYPES, "offsets", "sample_id", "group", *by_layer]
    missing = [name for name in required if name not in file or "checksum" not in file[name].attrs]
    if missing:
        raise remake(path, f"{missing} are missing or have no checksum")
    for name in required:
        check_own(file, name, path)
    tokens = file["token_id"].shape[0]
    values, marks = ((tokens, header.d_model), STORED[header.dtype]), ((tokens,), np.dtype(np.uint8))
    for name in by_layer:
        found, expected = file[name], marks if name.startswith("massive") else values
        if (found.shape, found.dtype) != expected:
            raise remake(path, f"{name} is {found.dtype} {found.shape}, expected {expected[1]} {expected[0]}")


def check_own(file: h5py.File, name: str, path: Path) -> None:
    """Refuse an object whose values lie in another file, or that claims more than the file can hold."""
    import h5py

    found = file[name]
    parts = [part for part in (name.rpartition("/")[0], name) if part]
    linked = not all(isinstance(file.get(part, getlink=True), h5py.HardLink) for part in parts)
    if linked or found.is_virtual or found.external:
        raise remake(path, f"{name} lies in another file")
    if found.size * found.dtype.itemsize > path.stat().st_size:
        raise remake(path, f"{name} claims {found.size} values, more than the file holds")


def checked(values: Any, dataset: h5py.Dataset, path: Path) -> Any:
    """Return values read from a dataset if they match its checksum."""
    if checksum(values) != plain(dataset.attrs["checksum"]):
        raise remake(path, f"{dataset.name.strip('/')} was altered (its checksum differs)")
    return values


def check_offsets(offsets: np.ndarray, tokens: int, samples: int, path: Path) -> None:
    """Check that offsets cut the tokens into the samples."""
    fits = len(offsets) == samples + 1 and offsets[0] == 0 and offsets[-1] == tokens
    if samples == 0 or not fits or (np.diff(offsets) < 0).any():
        raise remake(path, f"offsets do not fit to {samples} samples of {tokens} tokens")

"""Writing a shard in pieces, so that a block of samples need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmdiff.activations.format import (
    SCHEMA,
    STORED,
    TOKEN_DTYPES,
    ShardContent,
    ShardError,
    ShardHeader,
    array_bytes,
    check_finite,
    checksum,
    chunk_cuts,
    header_checksum,
    layer_name,
    massive_name,
    new_checksum,
    rows_per_chunk,
)
from vlmdiff.activations.shards import open_shard
from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.hdf5 import open_hdf5

# Imported late: `open_hdf5` sets HDF5 up before it is loaded.
if TYPE_CHECKING:
    import h5py


class ShardWriter:
    """Appends samples, in order, to a shard that is being written."""

    def __init__(self, file: h5py.File, header: ShardHeader, path: Path) -> None:
        self.file, self.header, self.path = file, header, path
        self.offsets: list[int] = [0]
        self.sample_id: list[str] = []
        self.group: list[str] = []
        # A few bytes a token, kept until the end; residuals are written at once.
        self.tokens: dict[str, list[np.ndarray]] = {name: [] for name in TOKEN_DTYPES}
        self.massive: dict[int, list[np.ndarray]] = {layer: [] for layer in header.layers}
        self.digests = {layer_name(layer): new_checksum() for layer in header.layers}
        rows, width = rows_per_chunk(header.d_model), header.d_model
        for name in self.digests:
            file.create_dataset(
                name,
                shape=(0, width),
                maxshape=(None, width),
                chunks=(rows, width),
                dtype=STORED[header.dtype],
            )

    def append(self, content: ShardContent) -> None:
        """Add samples after those written so far.

        Raises:
            ShardError: shapes or types do not fit together, or a value is not finite.
        """
        check_content(content, self.header, self.path)
        for layer in self.header.layers:
            check_finite(content.residual[layer], layer, self.header.dtype, self.path)
            self._extend(layer_name(layer), content.residual[layer])
            self.massive[layer].append(content.marks(layer))
        for name, parts in self.tokens.items():
            parts.append(getattr(content, name))
        self.offsets.extend((content.offsets[1:] + self.offsets[-1]).tolist())
        self.sample_id.extend(content.sample_id)
        self.group.extend(content.group)

    def _extend(self, name: str, values: np.ndarray) -> None:
        """Add rows chunk by chunk; whole ones without HDF5's selections, which take as long as copying."""
        dataset, size = self.file[name], rows_per_chunk(self.header.d_model)
        first = dataset.shape[0]
        last = first + len(values)
        dataset.resize(last, axis=0)
        for start, stop in pairwise(chunk_cuts(first, last, size)):
            part = values[start - first : stop - first]
            if len(part) == size:
                dataset.id.write_direct_chunk((start, 0), array_bytes(part))
            else:
                dataset[start:stop] = part
            self.digests[name].update(array_bytes(part))

    def finish(self) -> None:
        """Write what is known only at the end: offsets, names, checksums, header."""
        if not self.sample_id:
            raise ShardError(
                f"{self.path}: a shard needs at least one sample, found none; check `samples` in the config"
            )
        for name, digest in self.digests.items():
            set_attribute(self.file[name], "checksum", digest.hexdigest())
        for name, parts in self.tokens.items():
            self._create(name, np.concatenate(parts))
        for layer, parts in self.massive.items():
            self._create(massive_name(layer), np.concatenate(parts).astype(np.uint8))
        self._create("offsets", np.array(self.offsets, dtype=np.int64))
        for name in ("sample_id", "group"):
            self._create(name, getattr(self, name))
        attributes = {**asdict(self.header), "schema": SCHEMA, "checksum": header_checksum(self.header)}
        for name, value in attributes.items():
            set_attribute(self.file, name, value)

    def _create(self, name: str, values: np.ndarray | list[str]) -> None:
        """Write a small object with its checksum; strings as UTF-8 of one length, filled with zero bytes."""
        import h5py

        if isinstance(values, list):
            encoded = [value.encode() for value in values]
            data = np.array(encoded, h5py.string_dtype("utf-8", max(1, max(map(len, encoded)))))
        else:
            data = values
        set_attribute(self.file.create_dataset(name, data=data), "checksum", checksum(values))


def set_attribute(owner: h5py.HLObject, name: str, value: Any) -> None:
    """Write an attribute; texts are of one length, since HDF5 keeps others where no checksum watches."""
    import h5py

    data = np.asarray(value)
    if data.dtype.kind == "U":
        data = np.char.encode(data, "utf-8")
        owner.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, data.dtype.itemsize)))
    else:
        owner.attrs[name] = value


def check_content(content: ShardContent, header: ShardHeader, path: Path) -> None:
    """Refuse content whose shapes and types do not fit together or to the header."""
    tokens, samples = len(content.token_id), len(content.sample_id)
    expected = {name: ((tokens,), np.dtype(dtype)) for name, dtype in TOKEN_DTYPES.items()}
    found = {name: (getattr(content, name).shape, getattr(content, name).dtype) for name in TOKEN_DTYPES}
    for layer in header.layers:
        expected[layer_name(layer)] = ((tokens, header.d_model), STORED[header.dtype])
        values = content.residual.get(layer)
        found[layer_name(layer)] = None if values is None else (values.shape, values.dtype)
        marks = content.marks(layer)
        expected[massive_name(layer)] = ((tokens,), np.dtype(bool))
        found[massive_name(layer)] = (marks.shape, marks.dtype)
    expected["offsets"] = ((samples + 1,), np.dtype(np.int64))
    found["offsets"] = (content.offsets.shape, content.offsets.dtype)
    wrong = [
        f"{name}: found {found[name]}, expected {expected[name]}"
        for name in expected
        if found[name] != expected[name]
    ]
    if wrong or len(content.group) != samples or not rises(content.offsets, tokens):
        problem = "; ".join(wrong) or "groups or offsets do not fit to the samples"
        raise ShardError(f"{path}: content does not fit together: {problem}")


def rises(offsets: np.ndarray, tokens: int) -> bool:
    """Tell whether offsets go from 0 to the number of tokens and never fall."""
    return bool(offsets[0] == 0 and offsets[-1] == tokens and (np.diff(offsets) >= 0).all())


@contextmanager
def shard_writer(path: str | Path, header: ShardHeader) -> Iterator[ShardWriter]:
    """Yield a writer; after the body the file is read back, every checksum compared, then renamed.

    Raises:
        ShardError: nothing was appended, or the file reads back differently.
    """
    with replacing(path) as temporary:
        # The latest layout has checksums on HDF5's own structures: readers crash on damage in the older one.
        # Without a cache of chunks every write goes to the disk at once: HDF5 crashes with one that it cannot
        # write out, on a full disk.
        with open_hdf5(temporary, "w", libver="latest", rdcc_nbytes=0) as file:
            writer = ShardWriter(file, header, Path(path))
            yield writer
            writer.finish()
        open_shard(temporary).verify()


def write_shard(path: str | Path, content: ShardContent, header: ShardHeader) -> None:
    """Write a shard at once: whole, verified and renamed, or not at all."""
    with shard_writer(path, header) as writer:
        writer.append(content)

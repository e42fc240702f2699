"""Damaged and foreign activation shards: refused by name, or read exactly as they were written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import damaged_bytes, outcome, refused, tries
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.activations.format import ShardContent, ShardHeader, layer_name
from vlmdiff.activations.shards import Shard, open_shard
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.writer import write_shard

WIDTH, LAYERS, COUNTS = 1024, (0, 3), (5, 2, 9)


def write(
    path: Path, model: str = "vlm", dataset: str = "questions", block: int = 0, width: int = WIDTH
) -> Path:
    rng, tokens = np.random.default_rng(block), sum(COUNTS)
    header = ShardHeader(
        model, dataset, f"print of {model}", f"print of {dataset}", block, width, LAYERS, "float16"
    )
    content = ShardContent(
        residual={layer: rng.normal(size=(tokens, width)).astype(np.float16) for layer in LAYERS},
        token_id=rng.integers(0, 99, tokens).astype(np.int32),
        position=np.arange(tokens, dtype=np.int32),
        token_type=np.full(tokens, 2, np.uint8),
        offsets=np.concatenate([[0], np.cumsum(COUNTS)]).astype(np.int64),
        sample_id=[f"{dataset}_{block}_{i}" for i in range(len(COUNTS))],
        group=["left of", "colour", "left of"],
    )
    write_shard(path, content, header)
    return path


def everything(path: Path) -> tuple[Shard, list[np.ndarray]]:
    """Read a shard as jobs do, all of it."""
    shard = open_shard(path)
    shard.verify()
    values = [shard.read(layer, 0, shard.n_tokens) for layer in shard.header.layers]
    return shard, [*values, *(shard.massive(layer) for layer in shard.header.layers)]


def same(found: tuple[Shard, list[np.ndarray]], expected: tuple[Shard, list[np.ndarray]]) -> bool:
    """Tell whether all that was read is what was written."""
    one, other = found[0], expected[0]
    arrays = ("token_id", "position", "token_type", "offsets")
    return (
        (one.header, one.sample_id, one.group) == (other.header, other.sample_id, other.group)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and all(np.array_equal(a, b) for a, b in zip(found[1], expected[1], strict=True))
    )


class Whole:
    """A shard's bytes, what they say, and the places of its values and of all else that is not zero."""

    def __init__(self, path: Path) -> None:
        self.data, self.content = path.read_bytes(), everything(path)
        values, chunks = np.zeros(len(self.data), dtype=bool), np.zeros(len(self.data), dtype=bool)
        with h5py.File(path) as file:
            for layer in LAYERS:
                chunk = file[layer_name(layer)].id.get_chunk_info(0)
                chunks[chunk.byte_offset : chunk.byte_offset + chunk.size] = True
                values[chunk.byte_offset : chunk.byte_offset + 2 * WIDTH * sum(COUNTS)] = True
        self.values = np.flatnonzero(values)
        self.others = np.flatnonzero(~chunks & (np.frombuffer(self.data, np.uint8) != 0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    return Whole(write(tmp_path_factory.mktemp("shard") / "shard_0.h5"))


@tries(100)
@given(data=st.data(), bits=st.integers(1, 255))
def test_a_flipped_byte_of_a_value_is_refused(tmp_path, whole, data, bits):
    content, path = bytearray(whole.data), tmp_path / "shard_0.h5"
    content[int(whole.values[data.draw(st.integers(0, len(whole.values) - 1))])] ^= bits
    path.write_bytes(content)
    assert "altered" in refused(lambda: everything(path), path)


@tries(250)
@given(data=st.data(), bits=st.integers(1, 255))
def test_a_flipped_byte_of_anything_else_is_refused_or_changes_nothing(tmp_path, whole, data, bits):
    content, path = bytearray(whole.data), tmp_path / "shard_0.h5"
    content[int(whole.others[data.draw(st.integers(0, len(whole.others) - 1))])] ^= bits
    path.write_bytes(content)
    found, message = outcome(lambda: everything(path), path)
    assert message is not None or same(found, whole.content)


@tries(60)
@given(data=st.data())
def test_truncated_zeroed_and_foreign_bytes_are_refused_or_change_nothing(tmp_path, whole, data):
    path = tmp_path / "shard_0.h5"
    path.write_bytes(data.draw(damaged_bytes(whole.data)))
    found, message = outcome(lambda: everything(path), path)
    assert message is not None or same(found, whole.content)


@pytest.mark.parametrize("size", [0, 1, 8, 100, 2048, 0.2, 0.5, 0.99])
def test_a_truncated_shard_is_refused(tmp_path, whole, size):
    path = tmp_path / "shard_0.h5"
    path.write_bytes(whole.data[: size if isinstance(size, int) else int(size * len(whole.data))])
    assert "run snakemake again" in refused(lambda: everything(path), path)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_shard_of_which_a_part_was_zeroed_is_refused(tmp_path, whole, share):
    content = bytearray(whole.data)
    start = int(whole.values[int(share * len(whole.values))])
    content[start : start + 4096] = bytes(4096)
    (tmp_path / "shard_0.h5").write_bytes(content)
    assert "altered" in refused(lambda: everything(tmp_path / "shard_0.h5"), tmp_path / "shard_0.h5")


def store(*paths: Path, layer: int = 0) -> ActivationStore:
    return ActivationStore(paths, layer)


@pytest.mark.parametrize("other", [{"model": "base_lm"}, {"dataset": "documents"}, {"width": 8}])
def test_a_shard_of_another_series_is_refused(tmp_path, other):
    first = write(tmp_path / "shard_0.h5")
    foreign = write(tmp_path / "shard_1.h5", block=1, **other)
    message = refused(lambda: store(first, foreign), foreign)
    assert "differ from" in message and "run snakemake again" in message


def test_the_same_block_twice_and_a_lost_block_are_refused(tmp_path):
    paths = [write(tmp_path / f"shard_{block}.h5", block=block) for block in range(3)]
    assert "[0, 2]" in refused(lambda: store(paths[0], paths[2]), tmp_path)
    paths[1].write_bytes(paths[0].read_bytes())
    assert "[0, 0, 2]" in refused(lambda: store(*paths), tmp_path)


def test_a_lost_layer_is_refused(tmp_path):
    path = write(tmp_path / "shard_0.h5")
    assert "layers [1] are missing" in refused(lambda: store(path, layer=1), path)
    with h5py.File(path, "r+") as file:
        del file[layer_name(3)]
    assert "residual/layer_3" in refused(lambda: store(path, layer=0), path)


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = write(tmp_path / "shard_0.h5")
    with h5py.File(path, "r+") as file:
        file[layer_name(0)][2, 2] = np.nan
    assert "altered" in refused(lambda: store(path, layer=0), path)


@pytest.mark.parametrize("kind", ["soft", "external", "raw", "virtual"])
def test_values_that_lie_in_another_file_are_refused(tmp_path, kind):
    path, other = write(tmp_path / "shard_0.h5"), write(tmp_path / "other.h5")
    name = layer_name(0)
    with h5py.File(path, "r+") as file:
        shape, dtype, checksum = file[name].shape, file[name].dtype, file[name].attrs["checksum"]
        del file[name]
        if kind == "soft":
            file[name] = h5py.SoftLink("/residual/layer_3")
        elif kind == "external":
            file[name] = h5py.ExternalLink(str(other), f"/{name}")
        elif kind == "raw":
            made = file.create_dataset(name, shape, dtype, external=[(str(other), 0, h5py.h5f.UNLIMITED)])
            made.attrs["checksum"] = checksum
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(other), name, shape)
            file.create_virtual_dataset(name, layout).attrs["checksum"] = checksum
    refused(lambda: store(path), path)


def test_more_values_than_the_file_holds_are_refused_before_they_are_read(tmp_path):
    path = write(tmp_path / "shard_0.h5")
    with h5py.File(path, "r+") as file:
        del file["token_id"]
        made = file.create_dataset("token_id", (2**40,), np.int32, chunks=(65536,))
        made.attrs["checksum"] = "0" * 32
    assert "more than the file holds" in refused(lambda: open_shard(path), path)


@pytest.mark.parametrize("name", ["token_id", "sample_id", "residual/layer_0"])
def test_an_object_of_another_kind_is_refused(tmp_path, name):
    path = write(tmp_path / "shard_0.h5")
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_group(name).attrs["checksum"] = "0" * 32
    refused(lambda: open_shard(path), path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("dtype", "float64"), ("dtype", 3), ("d_model", "wide"), ("layers", "0"), ("layers", [7]),
     ("block", "x"), ("schema", b"\xff"), ("schema", [1, 2]), ("token_types", 5), ("model", "base_lm"),
     ("dataset_fingerprint", "another")],
)  # fmt: skip
def test_a_header_of_other_types_is_refused(tmp_path, key, value):
    path = write(tmp_path / "shard_0.h5")
    with h5py.File(path, "r+") as file:
        file.attrs[key] = value
    refused(lambda: list(store(path).chunks(["text"])), path)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlmdiff.activations.format import ShardContent, ShardError, ShardHeader, layer_name, rows_per_chunk
from vlmdiff.activations.shards import check_offsets, open_shard
from vlmdiff.activations.writer import shard_writer, write_shard

SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_header(d_model: int = 4, layers: tuple[int, ...] = (0, 2), dtype: str = "float16") -> ShardHeader:
    return ShardHeader("vlm", "questions", "feed", "beef", 0, d_model, layers, dtype)


def make_content(header: ShardHeader, counts: list[int], seed: int = 0) -> ShardContent:
    rng, tokens = np.random.default_rng(seed), sum(counts)
    values = {layer: rng.normal(size=(tokens, header.d_model)).astype(np.float16) for layer in header.layers}
    if header.dtype == "bfloat16":
        values = {layer: array.view(np.uint16) & np.uint16(0xBFFF) for layer, array in values.items()}
    return ShardContent(
        residual=values,
        token_id=rng.integers(0, 1000, tokens).astype(np.int32),
        position=np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32),
        token_type=rng.integers(1, 3, tokens).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sample_id=[f"sämple {i}" for i in range(len(counts))],
        group=["left of" if i % 2 else "colour" for i in range(len(counts))],
    )


@pytest.fixture
def shard_path(tmp_path: Path) -> Path:
    header = make_header()
    write_shard(tmp_path / "shard_0.h5", make_content(header, [3, 5, 2]), header)
    return tmp_path / "shard_0.h5"


@SETTINGS
@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    d_model=st.integers(1, 9),
    layers=st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True).map(lambda x: tuple(sorted(x))),
    dtype=st.sampled_from(["float16", "bfloat16"]),
)
def test_what_is_written_is_read(tmp_path, counts, d_model, layers, dtype):
    header = make_header(d_model, layers, dtype)
    content = make_content(header, counts)
    write_shard(tmp_path / "s.h5", content, header)
    shard = open_shard(tmp_path / "s.h5")
    assert shard.header == header
    for name in ("token_id", "position", "token_type", "offsets"):
        assert np.array_equal(getattr(shard, name), getattr(content, name))
    assert (shard.sample_id, shard.group) == (content.sample_id, content.group)
    for layer in layers:
        stored = shard.read(layer, 0, shard.n_tokens)
        assert stored.dtype == content.residual[layer].dtype
        assert np.array_equal(stored, content.residual[layer])


def test_written_in_pieces_equals_written_at_once(tmp_path):
    header = make_header()
    pieces = [make_content(header, counts, seed) for seed, counts in enumerate(([2, 0], [4], [1, 3]))]
    with shard_writer(tmp_path / "pieces.h5", header) as writer:
        for piece in pieces:
            writer.append(piece)
    joined = ShardContent(
        residual={n: np.concatenate([p.residual[n] for p in pieces]) for n in header.layers},
        **{
            n: np.concatenate([getattr(p, n) for p in pieces]) for n in ("token_id", "position", "token_type")
        },
        offsets=np.array([0, 2, 2, 6, 7, 10]),
        sample_id=[name for p in pieces for name in p.sample_id],
        group=[name for p in pieces for name in p.group],
    )
    write_shard(tmp_path / "whole.h5", joined, header)
    with h5py.File(tmp_path / "pieces.h5") as one, h5py.File(tmp_path / "whole.h5") as other:
        sums = [
            {n: f[n].attrs["checksum"] for n in ("offsets", "group", layer_name(2))} for f in (one, other)
        ]
    assert sums[0] == sums[1]


def test_chunks_are_two_megabytes_uncompressed(shard_path):
    with h5py.File(shard_path) as file:
        dataset = file[layer_name(0)]
        assert dataset.chunks == (rows_per_chunk(4), 4)
        assert np.prod(dataset.chunks) * dataset.dtype.itemsize == 2 * 2**20
        assert dataset.compression is None


def test_attributes_name_no_machine_path(shard_path):
    with h5py.File(shard_path) as file:
        texts = [str(value) for value in file.attrs.values()]
    assert not any("/" in text for text in texts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_value_that_is_not_finite_is_refused(tmp_path, value, dtype):
    header = make_header(dtype=dtype)
    content = make_content(header, [4])
    bits = np.float32(value).view(np.uint32) >> 16
    content.residual[2][1, 3] = value if dtype == "float16" else np.uint16(bits)
    with pytest.raises(ShardError, match="layer 2") as caught:
        write_shard(tmp_path / "s.h5", content, header)
    assert ("extraction.storage: bfloat16" in str(caught.value)) == (dtype == "float16")
    assert list(tmp_path.iterdir()) == []


def test_the_largest_finite_values_are_stored(tmp_path):
    header = make_header()
    content = make_content(header, [4])
    content.residual[0][0] = [65504, -65504, 6e-8, 0]
    write_shard(tmp_path / "s.h5", content, header)
    assert open_shard(tmp_path / "s.h5").read(0, 0, 1)[0, 0] == np.float16(65504)


def test_a_shard_without_samples_is_refused(tmp_path):
    with (
        pytest.raises(ShardError, match="at least one sample"),
        shard_writer(tmp_path / "s.h5", make_header()),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"token_id": c.token_id[:-1]},
        lambda c: {"position": c.position.astype(np.int64)},
        lambda c: {"offsets": c.offsets[::-1].copy()},
        lambda c: {"offsets": c.offsets[:-1]},
        lambda c: {"group": c.group[1:]},
        lambda c: {"residual": {0: c.residual[0]}},
        lambda c: {"residual": {0: c.residual[0], 2: c.residual[2][:, :3]}},
        lambda c: {"residual": {0: c.residual[0], 2: c.residual[2].astype(np.float32)}},
    ],
)
def test_content_that_does_not_fit_is_refused(tmp_path, change):
    header = make_header()
    content = make_content(header, [2, 3])
    with pytest.raises(ShardError, match="does not fit"):
        write_shard(tmp_path / "s.h5", replace(content, **change(content)), header)


def test_a_failed_write_keeps_the_old_shard(shard_path):
    before, header = shard_path.read_bytes(), make_header()
    broken = make_content(header, [2])
    broken.residual[0][0, 0] = np.inf
    with pytest.raises(ShardError):
        write_shard(shard_path, broken, header)
    assert shard_path.read_bytes() == before
    assert list(shard_path.parent.iterdir()) == [shard_path]


def test_a_shard_that_reads_back_differently_is_not_published(tmp_path):
    header = make_header()
    with (
        pytest.raises(ShardError, match="layer 2 was altered"),
        shard_writer(tmp_path / "s.h5", header) as writer,
    ):
        writer.append(make_content(header, [4]))
        writer.file[layer_name(2)][0, 0] = 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 100, 0.3, 0.9])
def test_a_truncated_shard_is_refused(shard_path, kept):
    data = shard_path.read_bytes()
    shard_path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(ShardError, match="Delete the file and run snakemake again") as caught:
        open_shard(shard_path)
    assert str(shard_path) in str(caught.value)


@pytest.mark.parametrize("schema", ["vlmdiff-shard-0", None])
def test_a_foreign_file_is_refused(shard_path, schema):
    with h5py.File(shard_path, "r+") as file:
        if schema is None:
            del file.attrs["schema"]
        else:
            file.attrs["schema"] = schema
    with pytest.raises(ShardError, match=f"schema is {schema!r}, expected 'vlmdiff-shard-5'"):
        open_shard(shard_path)


@pytest.mark.parametrize("name", ["token_id", "position", "token_type", "offsets"])
def test_altered_tokens_are_refused_on_opening(shard_path, name):
    with h5py.File(shard_path, "r+") as file:
        file[name][1] += 1
    with pytest.raises(ShardError, match=f"{name} was altered"):
        open_shard(shard_path)


def test_altered_names_are_refused_on_opening(shard_path):
    with h5py.File(shard_path, "r+") as file:
        file["sample_id"][0] = "another"
    with pytest.raises(ShardError, match="sample_id was altered"):
        open_shard(shard_path)


def test_an_altered_layer_is_refused_when_it_is_verified(shard_path):
    with h5py.File(shard_path, "r+") as file:
        file[layer_name(2)][4, 1] = 7
    shard = open_shard(shard_path)
    shard.verify((0,))
    with pytest.raises(ShardError, match="layer 2 was altered"):
        shard.verify((2,))


def test_a_layer_that_is_not_there_is_named(shard_path):
    with pytest.raises(ShardError, match=r"layers \[1\] are missing, found \[0, 2\]"):
        open_shard(shard_path).verify((1,))


@pytest.mark.parametrize("name", ["offsets", "residual/layer_2", "group"])
def test_a_missing_object_is_named(shard_path, name):
    with h5py.File(shard_path, "r+") as file:
        del file[name]
    with pytest.raises(ShardError, match=name):
        open_shard(shard_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ShardError, match="no such file"):
        open_shard(tmp_path / "none.h5")


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param([0, 4, 2, 6], id="falls"),
        pytest.param([0, 2, 4, 5], id="ends early"),
        pytest.param([0, 2, 4, 7], id="ends late"),
        pytest.param([1, 2, 4, 6], id="starts late"),
        pytest.param([0, 2, 6], id="too few"),
        pytest.param([0, 2, 4, 5, 6], id="too many"),
    ],
)
def test_offsets_that_do_not_cut_the_tokens_into_the_samples_are_refused(offsets):
    check_offsets(np.array([0, 2, 2, 6]), 6, 3, Path("s.h5"))
    with pytest.raises(ShardError, match="offsets do not fit to 3 samples of 6 tokens"):
        check_offsets(np.array(offsets), 6, 3, Path("s.h5"))

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vlmdiff.activations.store as store_module
from vlmdiff.activations import shards
from vlmdiff.activations.format import ShardContent, ShardError, ShardHeader
from vlmdiff.activations.precision import from_storage, to_storage
from vlmdiff.activations.shards import open_shard
from vlmdiff.activations.shuffling import ShuffledStream
from vlmdiff.activations.slabs import Windows
from vlmdiff.activations.store import ActivationStore, check_together
from vlmdiff.activations.tokens import IMAGE, TEXT, type_codes
from vlmdiff.activations.writer import write_shard

D_MODEL, LAYER = 3, 1
# Samples of the three shards by their tokens; one sample is empty.
COUNTS = ([5, 9, 0, 7], [30, 2], [11])


def write_series(folder: Path) -> list[Path]:
    """Write three shards in which value[0] counts the tokens of the whole series."""
    paths, first = [], 0
    for block, counts in enumerate(COUNTS):
        tokens, rng = sum(counts), np.random.default_rng(block)
        values = np.zeros((tokens, D_MODEL), np.float16)
        values[:, 0] = np.arange(first, first + tokens)
        header = ShardHeader("vlm", "questions", "feed", "beef", block, D_MODEL, (LAYER,), "float16")
        content = ShardContent(
            residual={LAYER: values},
            token_id=(1000 + values[:, 0]).astype(np.int32),
            position=np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32),
            token_type=rng.integers(IMAGE, TEXT + 1, tokens).astype(np.uint8),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            sample_id=[f"{block}/{i}" for i in range(len(counts))],
            group=[f"group {block}"] * len(counts),
        )
        paths.append(folder / f"shard_{block}.h5")
        write_shard(paths[-1], content, header)
        first += tokens
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    return write_series(tmp_path_factory.mktemp("series"))


@pytest.fixture
def store(paths) -> ActivationStore:
    return ActivationStore(paths, LAYER)


# Two bytes a value: a buffer of 20 tokens.
BUFFER = 2 * D_MODEL * 20


@pytest.fixture
def small_windows(monkeypatch) -> None:
    """Make several windows out of the few tokens that there are."""
    monkeypatch.setattr(store_module, "rows_per_chunk", lambda d_model: 3 * store_module.WINDOWS_PER_CHUNK)


def ids(batches: list[torch.Tensor]) -> list[int]:
    return torch.cat(batches)[:, 0].long().tolist()


def test_samples_are_listed_in_order(store):
    assert store.n_samples == 7
    assert store.sample_ids == ["0/0", "0/1", "0/2", "0/3", "1/0", "1/1", "2/0"]
    assert store.groups == ["group 0"] * 4 + ["group 1"] * 2 + ["group 2"]
    assert store.d_model == D_MODEL


def test_shards_are_ordered_by_block(paths):
    assert ActivationStore(paths[::-1], LAYER).sample_ids == ActivationStore(paths, LAYER).sample_ids


@pytest.mark.parametrize("token_types", [["text"], ["image"], ["text", "image"]])
@pytest.mark.parametrize("max_tokens", [1, 4, 1000])
def test_chunks_give_all_selected_tokens_in_order(store, token_types, max_tokens):
    chunks = list(store.chunks(token_types, max_tokens))
    *full, last = [len(chunk.values) for chunk in chunks]
    assert all(size == max_tokens for size in full) and 0 < last <= max_tokens
    types = np.concatenate([shard.token_type for shard in store.shards])
    expected = np.flatnonzero(np.isin(types, type_codes(token_types)))
    assert torch.cat([c.values[:, 0] for c in chunks]).long().tolist() == expected.tolist()
    assert torch.cat([c.token_id for c in chunks]).tolist() == (1000 + expected).tolist()
    assert np.array_equal(torch.cat([c.token_type for c in chunks]).numpy(), types[expected])
    samples = np.repeat(np.arange(7), np.concatenate(COUNTS))
    assert torch.cat([c.sample for c in chunks]).tolist() == samples[expected].tolist()
    positions = np.concatenate([shard.position for shard in store.shards])
    assert torch.cat([c.position for c in chunks]).tolist() == positions[expected].tolist()
    assert store.n_tokens(token_types) == len(expected)


def test_types_that_were_not_stored_are_refused_by_name(tmp_path):
    header = ShardHeader(
        "vlm", "questions", "feed", "beef", 0, D_MODEL, (LAYER,), "float16", token_types=("text",)
    )
    content = ShardContent(
        residual={LAYER: np.zeros((2, D_MODEL), np.float16)},
        token_id=np.zeros(2, np.int32),
        position=np.arange(2, dtype=np.int32),
        token_type=np.full(2, TEXT, np.uint8),
        offsets=np.array([0, 2]),
        sample_id=["a"],
        group=["g"],
    )
    write_shard(tmp_path / "s.h5", content, header)
    store = ActivationStore([tmp_path / "s.h5"], LAYER)
    assert store.n_tokens(["text"]) == 2
    with pytest.raises(ShardError, match=r"types \['image'\] were not stored, only \['text'\]"):
        store.n_tokens(["image", "text"])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("buffer_bytes", [1, BUFFER, 2**30])
@pytest.mark.parametrize("token_types", [["text"], ["image", "text"]])
def test_every_token_comes_once_an_epoch_in_another_order_each(paths, token_types, buffer_bytes):
    store = ActivationStore(paths, LAYER, buffer_bytes)
    tokens = store.n_tokens(token_types)
    # Batches of one token end with the epoch whatever its length.
    stream = store.batches(token_types, 1, seed=3)
    first, second = ids(list(islice(stream, tokens))), ids(list(islice(stream, tokens)))
    expected = [int(v) for c in store.chunks(token_types) for v in c.values[:, 0]]
    assert sorted(first) == sorted(second) == expected
    assert len({tuple(first), tuple(second), tuple(expected)}) == 3


@pytest.mark.usefixtures("small_windows")
@given(
    start=st.integers(0, 40),
    size=st.integers(1, 70),
    seed=st.integers(0, 3),
    buffer_bytes=st.sampled_from([1, BUFFER, 2**30]),
)
@settings(max_examples=40, deadline=None)
def test_batches_continue_identically_at_any_step(paths, start, size, seed, buffer_bytes):
    store = ActivationStore(paths, LAYER, buffer_bytes)
    whole = list(islice(store.batches(["text", "image"], size, seed), start + 3))
    continued = list(islice(store.batches(["text", "image"], size, seed, start_step=start), 3))
    assert all(batch.shape == (size, D_MODEL) and batch.dtype == torch.float32 for batch in continued)
    assert ids(continued) == ids(whole[start:])


@pytest.mark.usefixtures("small_windows")
def test_order_does_not_depend_on_batch_size(paths):
    narrow = ActivationStore(paths, LAYER, BUFFER).batches(["text"], 4, seed=1)
    wide = ActivationStore(paths, LAYER, BUFFER).batches(["text"], 8, seed=1)
    assert ids(list(islice(narrow, 40))) == ids(list(islice(wide, 20)))


@pytest.mark.usefixtures("small_windows")
def test_order_depends_on_the_seed(store):
    one, other = (ids(list(islice(store.batches(["text"], 8, seed), 3))) for seed in (0, 1))
    assert one != other


@pytest.mark.usefixtures("small_windows")
def test_rows_are_mixed_across_windows(paths):
    store = ActivationStore(paths, LAYER, BUFFER)
    first = ids(list(islice(store.batches(["text", "image"], 8, seed=0), 1)))
    assert len({token // 3 for token in first}) > 3


def count_reads(monkeypatch) -> list:
    """Record the rows that are read of residuals."""
    selections, original = [], shards.read_rows

    def recording(dataset, start, stop, out=None):
        selections.append((start, stop))
        return original(dataset, start, stop, out)

    monkeypatch.setattr(shards, "read_rows", recording)
    return selections


@pytest.mark.usefixtures("small_windows")
def test_a_selection_that_fits_is_read_once_and_others_once_an_epoch(paths, monkeypatch):
    tokens = ActivationStore(paths, LAYER).n_tokens(["image", "text"])
    for buffer_bytes, times in ((2**30, 1), (BUFFER, 3)):
        store = ActivationStore(paths, LAYER, buffer_bytes)
        with monkeypatch.context() as patched:
            selections = count_reads(patched)
            list(islice(store.batches(["image", "text"], tokens, seed=0), 3))
        assert sum(stop - start for start, stop in selections) == times * tokens


@pytest.mark.usefixtures("small_windows")
def test_windows_without_a_wanted_token_are_not_read(paths, monkeypatch):
    store = ActivationStore(paths, LAYER)
    rows = np.concatenate([shard.token_type for shard in store.shards]) == TEXT
    wanted = set((np.flatnonzero(rows) // 3).tolist())
    selections = count_reads(monkeypatch)
    next(store.batches(["text"], 4, seed=0))
    read = sum(stop - start for start, stop in selections)
    assert read == sum(row // 3 in wanted for row in range(len(rows))) < len(rows)


@pytest.mark.usefixtures("small_windows")
def test_restarting_late_skips_without_reading(paths, monkeypatch):
    store = ActivationStore(paths, LAYER, BUFFER)
    selections = count_reads(monkeypatch)
    next(store.batches(["text"], 4, seed=0, start_step=10_000))
    assert sum(stop - start for start, stop in selections) < 64


PICTURES, EACH = 4_000, 576


def pictures_in_a_batch(seed: int) -> int:
    """Count pictures in a batch of 4,096 image tokens, rows being read as their picture's number."""
    mask = np.tile(np.arange(EACH + 20) < EACH, PICTURES)
    windows = Windows([mask], 64)

    def fill(members: np.ndarray) -> np.ndarray:
        return np.concatenate([slab.rows // (EACH + 20) for slab in windows.slabs(members)])

    rows = 2**30 // (2 * 4096)
    stream = ShuffledStream(windows.sizes, fill, seed, -(-int(windows.sizes.sum()) // rows))
    return len(set(next(stream.batches(4096, 0)).tolist()))


def test_a_batch_of_image_tokens_sees_many_pictures():
    """At a width of 4,096 a buffer of 1 GiB takes one window of 64 rows in 18.

    A picture touches 1 + 575 / 64 windows, so that a share 1 - (17 / 18)^9.98 of the pictures, 1,739, lies in
    a buffer. 4,096 draws find fewer of them: those with n tokens there with probability 1 - e^(-n / 32).
    A buffer of eight slabs of 4,096 rows, as there was before, has at most 64 pictures.
    """
    assert all(1_400 < pictures_in_a_batch(seed) < 1_550 for seed in range(3))


def test_the_shard_that_differs_may_stand_anywhere(tmp_path):
    paths = write_series(tmp_path)
    for place in (1, 2):
        whole = open_shard(paths[place])
        shard = replace(whole, header=replace(whole.header, dataset_fingerprint="other"))
        with pytest.raises(ShardError, match=f"shard_{place}.h5.*differ from"):
            check_together([shard if path == paths[place] else open_shard(path) for path in paths])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({key: value}, rf"\['{key}'\] differ from")
            for key, value in (
                ("model", "other"),
                ("dataset", "other"),
                ("model_fingerprint", "other"),
                ("dataset_fingerprint", "other"),
                ("dtype", "bfloat16"),
                ("token_types", ("image", "other", "text")),
            )
        ),
        ({"block": 5}, r"found blocks \[0, 1, 5\]"),
        ({"block": 1}, r"found blocks \[0, 1, 1\]"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path, change, message):
    paths = write_series(tmp_path)
    shard = store_module.open_shard(paths[2])
    values = shard.read(LAYER, 0, shard.n_tokens)
    content = ShardContent(
        {LAYER: values.view(np.uint16) if "dtype" in change else values},
        shard.token_id,
        shard.position,
        shard.token_type,
        shard.offsets,
        shard.sample_id,
        shard.group,
    )
    write_shard(paths[2], content, replace(shard.header, **change))
    with pytest.raises(ShardError, match=message):
        ActivationStore(paths, LAYER)


def test_missing_layer_no_shards_and_unknown_types_are_refused(paths, store):
    with pytest.raises(ShardError, match=r"layers \[7\] are missing"):
        ActivationStore(paths, 7)
    with pytest.raises(ShardError, match="no activation shards"):
        ActivationStore([], LAYER)
    with pytest.raises(ValueError, match="'words'"):
        store.n_tokens(["words"])


def test_a_selection_without_tokens_is_refused(tmp_path):
    header = ShardHeader("lm", "text", "feed", "beef", 0, 2, (0,), "float16")
    ones = np.ones(3, np.int32)
    offsets, residual = np.array([0, 3]), {0: np.ones((3, 2), np.float16)}
    types = np.full(3, TEXT, np.uint8)
    write_shard(
        tmp_path / "s.h5", ShardContent(residual, ones, ones, types, offsets, ["a"], ["text"]), header
    )
    with pytest.raises(ShardError, match="no tokens of the types"):
        ActivationStore([tmp_path / "s.h5"], 0).batches(["image"], 4, seed=0)


def test_an_altered_layer_is_refused(tmp_path):
    paths = write_series(tmp_path)
    with h5py.File(paths[1], "r+") as file:
        file[f"residual/layer_{LAYER}"][3, 1] = 5
    with pytest.raises(ShardError, match="shard_1.h5: layer 1 was altered"):
        ActivationStore(paths, LAYER)


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False))
)
def test_bfloat16_bits_round_trip_as_torch_rounds(values):
    tensor = torch.from_numpy(values)
    stored = to_storage(tensor, "bfloat16")
    assert stored.dtype == np.uint16
    assert torch.equal(from_storage(stored), tensor.bfloat16().float())


@given(hnp.arrays(np.float16, (3, 4), elements=st.floats(-65504, 65504, width=16, allow_subnormal=False)))
def test_float16_is_exact_for_its_own_values(values):
    stored = to_storage(torch.from_numpy(values).float(), "float16")
    assert np.array_equal(stored, values)
    assert from_storage(stored).dtype == torch.float32


def test_shards_and_samples_are_read_without_torch():
    code = (
        "import sys, vlmdiff.activations.shards, vlmdiff.activations.writer, vlmdiff.data.samples\n"
        "sys.exit('torch' in sys.modules)"
    )
    library = Path(store_module.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=library, check=False)
    assert run.returncode == 0


def test_a_single_slab_is_shuffled_anew_each_epoch(paths):
    store = ActivationStore(paths[:1], LAYER)
    tokens = store.n_tokens(["text"])
    stream = store.batches(["text"], tokens, seed=3)
    assert ids([next(stream)]) != ids([next(stream)])

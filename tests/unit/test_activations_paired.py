"""Two models' residuals of the same text tokens, side by side."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_activations import planted, write_pair

from vlmdiff.activations.format import ShardContent, ShardError, ShardHeader
from vlmdiff.activations.paired import PairedStore, common_runs, open_store
from vlmdiff.activations.shuffling import Share
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard

D_MODEL = 3
HEADER = ShardHeader("base_lm", "questions", "feed", "beef", 0, D_MODEL, (0,), "float16")


def write(folder: Path, model: str, samples, cuts=(), massive=(), first_sample=0, **header) -> list[Path]:
    """Write shards of samples, lists of (type, token); values count all tokens, from 1 and from 1001 on."""
    first, paths = 1 if model == "base_lm" else 1001, []
    bounds = [0, *cuts, len(samples)]
    for block, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        part = samples[start:stop]
        flat = [token for sample in part for token in sample]
        numbers = first + np.arange(len(flat))
        first += len(flat)
        content = ShardContent(
            residual={0: np.repeat(numbers[:, None], header.get("d_model", D_MODEL), 1).astype(np.float16)},
            token_id=np.array([token for _, token in flat], np.int32),
            position=np.arange(len(flat), dtype=np.int32),
            token_type=np.array([kind for kind, _ in flat], np.uint8),
            offsets=np.cumsum([0, *map(len, part)]).astype(np.int64),
            sample_id=[f"s{first_sample + start + i}" for i in range(len(part))],
            group=["g"] * len(part),
            massive={0: np.isin(numbers, massive)},
        )
        paths.append(folder / model / f"shard_{block}.h5")
        write_shard(paths[-1], content, replace(HEADER, model=model, block=block, **header))
    return paths


def texts(*samples):
    return [[(TEXT, token) for token in sample] for sample in samples]


def seen(*samples):
    return [[(IMAGE, 7), (IMAGE, 7), *((TEXT, token) for token in sample)] for sample in samples]


def pairs(store) -> list[tuple[int, int]]:
    values = torch.cat([chunk.values for chunk in store.chunks(["text"], 3)])
    assert (values[:, :D_MODEL] == values[:, :1]).all() and (
        values[:, D_MODEL:] == values[:, D_MODEL:][:, :1]
    ).all()
    return [(int(row[0]), int(row[-1])) for row in values]


def test_text_tokens_are_paired_wherever_shards_are_cut_and_images_lie(tmp_path):
    said = ([10, 11, 12], [13], [], [14, 15])
    before = write(tmp_path, "base_lm", texts(*said), cuts=(1,))
    after = write(tmp_path, "vlm", seen(*said), cuts=(2, 3))
    store = open_store([*before, *after], 0)
    assert isinstance(store, PairedStore) and (store.d_model, store.width, store.models) == (6, 3, 2)
    assert pairs(store) == [(1, 1003), (2, 1004), (3, 1005), (4, 1008), (5, 1013), (6, 1014)]
    assert store.n_tokens(["text"]) == 6 and store.sample_ids == ["s0", "s1", "s2", "s3"]
    samples = torch.cat([chunk.sample for chunk in store.chunks(["text"], 4)])
    assert samples.tolist() == [0, 0, 0, 1, 3, 3]
    ids = torch.cat([chunk.token_id for chunk in store.chunks(["text"])])
    assert ids.tolist() == [10, 11, 12, 13, 14, 15]


def test_shards_of_one_model_are_an_ordinary_store(tmp_path):
    store = open_store(write(tmp_path, "vlm", seen([1, 2])), 0)
    assert type(store) is ActivationStore and store.models == 1


def test_tokens_that_one_model_alone_is_shown_have_no_partner(tmp_path):
    before = write(tmp_path, "base_lm", texts([10, 11, 12, 13], [20, 21]))
    after = write(tmp_path, "vlm", seen([9, 10, 11, 99, 12, 13, 9], [9, 20, 21, 9]))
    assert pairs(PairedStore(before, after, 0)) == [
        (1, 1004), (2, 1005), (3, 1007), (4, 1008), (5, 1013), (6, 1014),
    ]  # fmt: skip


def test_a_token_that_is_massive_in_either_model_is_left_out(tmp_path):
    before = write(tmp_path, "base_lm", texts([10, 11, 12, 13]), massive=[1])
    after = write(tmp_path, "vlm", seen([10, 11, 12, 13]), massive=[1005])
    store = PairedStore(before, after, 0)
    assert pairs(store) == [(2, 1004), (4, 1006)]
    batch = next(store.batches(["text"], 4, seed=1))
    assert sorted(map(tuple, batch[:, [0, -1]].int().tolist())) == [
        (2, 1004),
        (2, 1004),
        (4, 1006),
        (4, 1006),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "others"}, "dataset is 'questions', but 'others' .*paired on one data set"),
        ({"d_model": 4}, "d_model is 3, but 4"),
        ({"dtype": "bfloat16"}, "dtype is 'float16', but 'bfloat16'"),
    ],
)
def test_series_that_do_not_belong_together_are_refused(tmp_path, change, words):
    before = write(tmp_path, "base_lm", texts([10]))
    after = write(tmp_path, "vlm", seen([10]), **change) if "dtype" not in change else in_bfloat16(tmp_path)
    with pytest.raises(ShardError, match=words):
        PairedStore(before, after, 0)


def in_bfloat16(folder: Path) -> list[Path]:
    content = ShardContent(
        residual={0: np.zeros((1, D_MODEL), np.uint16)},
        token_id=np.array([10], np.int32),
        position=np.zeros(1, np.int32),
        token_type=np.array([TEXT], np.uint8),
        offsets=np.array([0, 1], np.int64),
        sample_id=["s0"],
        group=["g"],
    )
    path = folder / "vlm" / "shard_0.h5"
    write_shard(path, content, replace(HEADER, model="vlm", dtype="bfloat16"))
    return [path]


def test_other_samples_and_other_texts_are_refused(tmp_path):
    before = write(tmp_path, "base_lm", texts([10, 11], [12, 13]))
    fewer = write(tmp_path / "fewer", "vlm", seen([10, 11]))
    renamed = write(tmp_path / "renamed", "vlm", seen([10, 11], [12, 13]), first_sample=1)
    for after in (fewer, renamed):
        with pytest.raises(ShardError, match="hold other samples"):
            PairedStore(before, after, 0)
    other = write(tmp_path / "other", "vlm", seen([30, 31], [12, 40]))
    with pytest.raises(
        ShardError, match=r"found 1 tokens in common of 4, expected at least half.*one tokenizer"
    ):
        PairedStore(before, other, 0)
    with pytest.raises(ShardError, match=r"the models \['base_lm', 'vlm', 'third'\], expected one or two"):
        open_store([*before, *fewer, *write(tmp_path, "third", texts([1]))], 0)


def test_damage_of_either_series_is_told(tmp_path):
    before, after = write_pair(tmp_path, planted(), tokens=240)
    with h5py.File(before[1], "r+") as file:
        file["residual/layer_0"][3, 2] += 1
    with pytest.raises(ShardError, match="shard_1.h5"):
        PairedStore(before, after, 0)


@pytest.mark.parametrize("buffer_bytes", [2**30, 2 * 48 * 100])
def test_shuffled_batches_keep_pairs_together_and_show_each_once(tmp_path, buffer_bytes):
    streams = planted()
    store = PairedStore(*write_pair(tmp_path, streams, tokens=2400), 0, buffer_bytes)
    total = store.n_tokens(["text"])
    inorder = torch.cat([chunk.values for chunk in store.chunks(["text"])])
    drawn = torch.cat(list(islice(store.batches(["text"], 60, seed=4), total // 60)))
    assert drawn.shape == inorder.shape == (2400, 48)
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, inorder.tolist()))
    assert not torch.equal(drawn, inorder)
    later = next(store.batches(["text"], 60, seed=4, start_step=7))
    assert torch.equal(later, drawn[420:480])
    shared = [next(store.batches(["text"], 60, 4, 7, Share(process, 2))) for process in (0, 1)]
    assert torch.equal(torch.stack(shared, 1).flatten(0, 1), later)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_common_runs_pair_equal_tokens_in_order(first, second):
    found = list(common_runs(np.array(first), np.array(second)))
    ends = (0, 0)
    for one, two, size in found:
        assert size == 0 or (one >= ends[0] and two >= ends[1])
        assert first[one : one + size] == second[two : two + size]
        ends = (one + size, two + size)
    if first == second:
        assert sum(size for *_, size in found) == len(first)

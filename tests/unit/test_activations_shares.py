"""Processes that train together: each reads its part of the tokens, together they have the batches of one."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_trainings import STAGE, TOPK
from sparse_activations import write_sparse_shards

from vlmdiff.activations import shards as reading
from vlmdiff.activations import shuffling
from vlmdiff.activations.format import ShardError, layer_name
from vlmdiff.activations.shuffling import ALONE, Share, ShuffledStream
from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.task import ShuffledBatches


class Rows:
    """A source whose row `i` is the number `i`, in items of some sizes; it notes what it is asked for."""

    def __init__(self, sizes: list[int]):
        self.sizes, self.asked = np.array(sizes, np.int64), []
        self.ends = np.cumsum(self.sizes)

    def fill(self, members: np.ndarray) -> np.ndarray:
        self.asked.append(int(self.sizes[members].sum()))
        return np.concatenate([np.arange(self.ends[i] - self.sizes[i], self.ends[i]) for i in members])

    def batches(self, size: int, step: int, buffers: int, share: Share = ALONE, count: int = 4) -> list:
        """Return some batches of a stream in which small buffers have lanes too."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(shuffling, "WITH_LANES", 0)
            return self.as_they_are(size, step, buffers, share, count)

    def as_they_are(
        self, size: int, step: int, buffers: int, share: Share = ALONE, count: int = 4, seed: int = 5
    ) -> list:
        stream = ShuffledStream(self.sizes, self.fill, seed, buffers)
        return [rows.tolist() for rows in islice(stream.batches(size, step * size, share), count)]


@given(
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=20).filter(any),
    buffers=st.integers(1, 4),
    processes=st.sampled_from([1, 2, 3, 4, 6, 8]),
    each=st.integers(1, 9),
    step=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_the_batches_of_one_process(sizes, buffers, processes, each, step):
    rows, size = Rows(sizes), processes * each
    whole = rows.batches(size, step, buffers)
    for process in range(processes):
        share = Share(process, processes)
        assert rows.batches(size, step, buffers, share) == [batch[process::processes] for batch in whole]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12).filter(any), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_every_row_comes_once_an_epoch(sizes, buffers):
    rows, total = Rows(sizes), sum(sizes)
    epochs = rows.batches(1, 0, buffers, count=2 * total)
    for epoch in (epochs[:total], epochs[total:]):
        assert sorted(row for (row,) in epoch) == list(range(total))


def test_a_small_buffer_is_shuffled_whole():
    """A row a lane would leave nothing to shuffle."""
    one, other = (Rows([10] * 6).as_they_are(60, 0, 1, count=1, seed=seed)[0] for seed in (0, 1))
    assert one != other and sorted(one) == sorted(other) == list(range(60))


@pytest.mark.parametrize(("processes", "part"), [(2, 2), (4, 4), (8, 8), (6, 2), (3, 1), (5, 1)])
@pytest.mark.parametrize("buffers", [1, 7])
def test_a_process_asks_for_its_part_alone(processes, part, buffers):
    """A power of two of processes divides the reading by itself; others by the largest one in them."""
    total = 60_000
    for process in range(processes):
        rows = Rows([6] * (total // 6))
        # One epoch: of a single buffer the part is asked for once, whatever follows.
        rows.batches(
            600, 0, buffers, Share(process, processes), count=(1 if buffers > 1 else 3) * total // 600
        )
        assert total / part - 100 * buffers <= sum(rows.asked) <= total / part + 100 * buffers


def test_rows_of_a_batch_come_from_everywhere_in_the_buffer():
    rows = Rows([10] * 640)
    for batch in rows.batches(64, 0, 1, count=100):
        assert sorted(row // 100 for row in batch) == list(range(64))
    firsts = {rows_of[0] for rows_of in rows.batches(64, 0, 1, count=100)}
    assert len(firsts) == 100, "a lane is shuffled"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), tokens=40_000, blocks=4)


def rows_read(monkeypatch, use) -> int:
    """Count rows of residuals that are read."""
    counts, original = [], reading.read_rows

    def recording(dataset, start, stop, out=None):
        counts.append(stop - start)
        return original(dataset, start, stop, out)

    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_rows", recording)
        use()
    return sum(counts)


def test_two_processes_read_half_of_the_shards_each(shards, monkeypatch):
    one = Recipe.from_params(TOPK, STAGE)
    two = Recipe.from_params(TOPK, {**STAGE, "devices": 2})
    store = ActivationStore(shards, 0)
    monkeypatch.setattr("vlmdiff.activations.store.WINDOWS_PER_CHUNK", 512)
    whole = list(islice(iter(ShuffledBatches(store, one, 3, 5, 0)), 8))
    for process in range(2):
        found = []

        def use(process=process, found=found):
            found += list(islice(iter(ShuffledBatches(store, two, 3, 5, process)), 8))

        read = rows_read(monkeypatch, use)
        assert 0.45 < read / 40_000 < 0.56
        assert all(torch.equal(mine, batch[process::2]) for mine, batch in zip(found, whole))


def test_two_processes_check_half_of_the_shards_each(tmp_path):
    import h5py

    paths = write_sparse_shards(tmp_path, blocks=4, layers=(0,))
    with h5py.File(paths[1], "r+") as file:
        file[layer_name(0)][0, 0] = 1
    assert (
        ActivationStore(paths, 0, share=Share(0, 2)).n_samples
        == ActivationStore(paths, 0, share=Share(0, 4)).n_samples
    )
    for share in (Share(), Share(1, 2), Share(1, 3)):
        with pytest.raises(ShardError, match="altered"):
            ActivationStore(paths, 0, share=share)

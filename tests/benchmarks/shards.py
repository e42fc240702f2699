"""Activation shards beside one float32 dataset a sample (the authors' layout) and beside a .npy memmap."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from benchmarks.harness import Goal, measure, ratio_row

# Text tokens of questions: (samples, tokens, d_model).
SIZES = ((10_000, 12, 256), (2_000, 12, 4_096))
BATCH = 2_048


class Layouts:
    """The same residuals of one layer in three layouts, each with the same three tasks.

    As Snakemake does before a job, a former output is removed before it is written anew: to put a file in the
    place of another one makes some file systems write it out at once.
    """

    def __init__(self, folder: Path, samples: int, tokens: int, d_model: int) -> None:
        rng = np.random.default_rng(0)
        self.samples, self.tokens = samples, tokens
        self.values = rng.standard_normal((samples * tokens, d_model), dtype=np.float32)
        self.stored = self.values.astype(np.float16)
        self.shard, self.per_sample, self.npy = (folder / name for name in ("a.h5", "b.h5", "c.npy"))
        # The batches of an epoch for the layouts that have no order of their own.
        whole = len(self.values) // BATCH
        self.rows = np.split(rng.permutation(len(self.values))[: whole * BATCH], whole)

    def write_shard(self) -> None:
        """Write our shard, checksums and the check of what was written included."""
        from vlmdiff.activations.format import ShardContent, ShardHeader
        from vlmdiff.activations.tokens import TEXT
        from vlmdiff.activations.writer import write_shard

        self.shard.unlink(missing_ok=True)
        whole = len(self.stored)
        content = ShardContent(
            {0: self.stored},
            np.zeros(whole, np.int32),
            np.tile(np.arange(self.tokens, dtype=np.int32), self.samples),
            np.full(whole, TEXT, np.uint8),
            np.arange(0, whole + 1, self.tokens),
            [f"sample_{i}" for i in range(self.samples)],
            ["all"] * self.samples,
        )
        header = ShardHeader("m", "d", "1", "2", 0, self.stored.shape[1], (0,), "float16", ("text",))
        write_shard(self.shard, content, header)

    def write_per_sample(self) -> None:
        """Write one float32 dataset a sample."""
        self.per_sample.unlink(missing_ok=True)
        with h5py.File(self.per_sample, "w") as file:
            for i in range(self.samples):
                file.create_dataset(f"sample_{i}", data=self.values[i * self.tokens : (i + 1) * self.tokens])

    def write_npy(self) -> None:
        """Write one float16 array."""
        self.npy.unlink(missing_ok=True)
        np.save(self.npy, self.stored)

    def read_shard(self) -> None:
        """Read all tokens of an opened store in order, as float32."""
        for chunk in self.store.chunks(["text"]):
            chunk.values.sum()

    def read_per_sample(self) -> None:
        """Read all samples in order."""
        with h5py.File(self.per_sample) as file:
            for i in range(self.samples):
                file[f"sample_{i}"][:].sum()

    def read_npy(self) -> None:
        """Read all tokens in order, as float32."""
        values = np.load(self.npy, mmap_mode="r")
        for start in range(0, len(values), 8192):
            values[start : start + 8192].astype(np.float32).sum()

    def shuffle_shard(self) -> None:
        """Read an epoch of shuffled batches, from disk."""
        for batch in islice(self.store.batches(["text"], BATCH, seed=0), len(self.rows)):
            batch.sum()

    def shuffle_per_sample(self) -> None:
        """Read a single shuffled batch, row by row: the layout offers nothing else."""
        with h5py.File(self.per_sample) as file:
            for rows in self.rows[:1]:
                np.stack([file[f"sample_{row // self.tokens}"][row % self.tokens] for row in rows]).sum()

    def shuffle_npy(self) -> None:
        """Read as many shuffled batches through a memmap."""
        values = np.load(self.npy, mmap_mode="r")
        for rows in self.rows:
            values[rows].astype(np.float32).sum()

    def open_store(self) -> None:
        """Open the shard, checksums compared."""
        from vlmdiff.activations.store import ActivationStore

        self.store = ActivationStore([self.shard], 0)


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure writing, reading and shuffled batches at both sizes."""
    return [row for size in SIZES for row in measured(size, rounds)]


def measured(size: tuple[int, int, int], rounds: int) -> list[dict[str, object]]:
    """Measure one size."""
    with tempfile.TemporaryDirectory() as folder:
        layouts = Layouts(Path(folder), *size)
        layouts.write_shard()
        layouts.open_store()
        return list(compare(layouts, "{} samples x {} tokens x {}".format(*size), rounds))


def compare(layouts: Layouts, size: str, rounds: int) -> Iterator[dict[str, object]]:
    """Yield the rows of all tasks."""
    goals = {
        "write": (Goal(least=10), Goal()),
        "read": (Goal(least=10), Goal(aim=">= 0.7")),
        "shuffle": (Goal(least=80), Goal()),
    }
    for task, (authors, npy) in goals.items():
        contestants: dict[str, Callable[[], None]] = {
            name: getattr(layouts, f"{task}_{name}") for name in ("shard", "per_sample", "npy")
        }
        times = measure(contestants, rounds)
        # One batch of the row-by-row layout stands for all: it takes too long.
        scale = len(layouts.rows) if task == "shuffle" else 1
        authors_time = times["per_sample"] * scale
        yield ratio_row(
            "shards", size, f"{task}: a dataset a sample / ours", authors_time / times["shard"], authors
        )
        yield ratio_row("shards", size, f"{task}: .npy / ours", times["npy"] / times["shard"], npy)
    opened = measure({"open": layouts.open_store, "read": layouts.read_shard}, rounds)
    yield ratio_row("shards", size, "open and verify / read", opened["open"] / opened["read"])
    bytes_ = layouts.shard.stat().st_size / layouts.per_sample.stat().st_size
    yield ratio_row("shards", size, "disk: ours / a dataset a sample", bytes_, Goal(most=0.51))

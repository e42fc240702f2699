"""Shuffling tokens by slabs: read in large pieces, shuffle in a buffer, restart anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlmdiff.runtime.seeds import derive_seed

BUFFER_SLABS = 8


@dataclass(frozen=True)
class Slab:
    """A contiguous piece of one shard.

    Attributes:
        shard: index of the shard.
        start: first row of the piece.
        stop: row after its last.
        rows: (selected,) selected rows, counted from `start`.
    """

    shard: int
    start: int
    stop: int
    rows: np.ndarray


def cut_slabs(shard: int, mask: np.ndarray, max_tokens: int) -> Iterator[Slab]:
    """Cut a shard into contiguous pieces of at most `max_tokens` selected rows.

    Args:
        shard: index of the shard, handed on.
        mask: (tokens,) True for selected rows.
        max_tokens: most selected rows of a piece.
    """
    selected = np.flatnonzero(mask)
    for first in range(0, len(selected), max_tokens):
        rows = selected[first : first + max_tokens]
        start, stop = int(rows[0]), int(rows[-1]) + 1
        yield Slab(shard, start, stop, rows - start)


def group_slabs(masks: Iterable[np.ndarray], size: int) -> Iterator[list[Slab]]:
    """Cut a series of shards into runs of `size` selected rows, over the ends of shards; fewer at the end.

    Args:
        masks: for each shard (tokens,) True for selected rows.
        size: selected rows of a run.
    """
    group, room = [], size
    for shard, mask in enumerate(masks):
        selected = np.flatnonzero(mask)
        while len(selected):
            rows, selected = selected[:room], selected[room:]
            start = int(rows[0])
            group.append(Slab(shard, start, int(rows[-1]) + 1, rows - start))
            room -= len(rows)
            if not room:
                yield group
                group, room = [], size
    if group:
        yield group


class ShuffledStream:
    """An endless stream of rows: slabs permuted each epoch, rows shuffled among a few slabs.

    Row `n` of the stream is a function of seed and slabs alone, so that a stream can start at any
    row: whole buffers before it are skipped without reading.
    """

    def __init__(
        self,
        slabs: Sequence[Slab],
        read: Callable[[Sequence[Slab]], list[np.ndarray]],
        seed: int,
        keep: bool,
    ) -> None:
        """Plan a stream.

        Args:
            slabs: the pieces to draw from.
            read: returns the selected rows of each of some pieces.
            seed: determines the order.
            keep: hold every piece in memory once it has been read.
        """
        self.slabs, self.read, self.seed, self.keep = slabs, read, seed, keep
        self.sizes = np.array([len(slab.rows) for slab in slabs])
        self.kept: dict[int, np.ndarray] = {}

    def batches(self, size: int, start_row: int) -> Iterator[np.ndarray]:
        """Yield the stream from `start_row` on in batches of exactly `size` rows."""
        pending: list[np.ndarray] = []
        waiting = 0
        for rows in self.buffers(start_row):
            pending.append(rows)
            waiting += len(rows)
            if waiting < size:
                continue
            joined = np.concatenate(pending)
            whole = waiting - waiting % size
            yield from (joined[first : first + size] for first in range(0, whole, size))
            pending, waiting = [joined[whole:]], waiting - whole

    def buffers(self, start_row: int) -> Iterator[np.ndarray]:
        """Yield shuffled buffers; of the first one only what lies from `start_row` on."""
        epoch, skip = divmod(start_row, int(self.sizes.sum()))
        while True:
            order = np.random.default_rng(derive_seed(self.seed, "slabs", epoch)).permutation(len(self.slabs))
            for first in range(0, len(order), BUFFER_SLABS):
                members = order[first : first + BUFFER_SLABS]
                size = int(self.sizes[members].sum())
                if skip >= size:
                    skip -= size
                    continue
                rng = np.random.default_rng(derive_seed(self.seed, "rows", epoch, first))
                shuffled = rng.permutation(size)
                yield np.concatenate(self.rows(members.tolist()))[shuffled[skip:]]
                skip = 0
            epoch += 1

    def rows(self, members: Sequence[int]) -> list[np.ndarray]:
        """Return the selected rows of each of some slabs."""
        unread = [index for index in members if index not in self.kept]
        found = dict(zip(unread, self.read([self.slabs[index] for index in unread]), strict=True))
        rows = [found[index] if index in found else self.kept[index] for index in members]
        if self.keep:
            self.kept.update(found)
        return rows

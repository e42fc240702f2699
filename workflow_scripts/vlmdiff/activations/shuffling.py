"""Shuffling rows in large buffers: items in a random order, then the rows of many items among one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64

from vlmdiff.runtime.seeds import derive_seed


class ShuffledStream:
    """An endless stream of rows, each once an epoch, shuffled through a buffer.

    An item owns some rows: a window of a file, or a sample. Each epoch permutes the items, deals them to
    buffers of about equally many rows and shuffles the rows of each buffer. A batch therefore mixes all the
    items of a buffer: the smaller an item, the more of them. Row `n` is a function of seed, sizes and the
    number of buffers, so that a stream can start at any row: buffers before it are skipped unread.
    """

    def __init__(
        self,
        sizes: Int64[np.ndarray, " items"],
        fill: Callable[[Int64[np.ndarray, " members"]], np.ndarray],
        seed: int,
        buffers: int,
    ) -> None:
        """Plan a stream.

        Args:
            sizes: rows of each item; those of none are never asked for.
            fill: returns the rows of some items, given in rising order, one item after the other.
            seed: determines the order.
            buffers: how many buffers make an epoch. A single one is filled once and kept.
        """
        self.sizes, self.fill, self.seed, self.buffers = sizes, fill, seed, buffers
        self.total = int(sizes.sum())
        self.kept: np.ndarray | None = None

    def batches(self, size: int, start_row: int) -> Iterator[np.ndarray]:
        """Yield the stream from `start_row` on in batches of exactly `size` rows."""
        parts, missing = [], size
        for members, turn in self.turns(start_row):
            values, first = self.values(members), 0
            while first < len(turn):
                taken = turn[first : first + missing]
                parts.append(values[taken])
                first, missing = first + len(taken), missing - len(taken)
                if not missing:
                    yield parts[0] if len(parts) == 1 else np.concatenate(parts)
                    parts, missing = [], size
            # Freed before the next buffer is filled: there is never more than one.
            del values

    def turns(self, start_row: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the items of each buffer and the order of its rows, from row `start_row` of the stream on."""
        epoch, skip = divmod(start_row, self.total)
        while True:
            for number, members in enumerate(self.plan(epoch)):
                size = int(self.sizes[members].sum())
                if skip >= size:
                    skip -= size
                    continue
                rng = np.random.default_rng(derive_seed(self.seed, "rows", epoch, number))
                yield members, rng.permutation(size)[skip:]
                skip = 0
            epoch += 1

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the items of each buffer of an epoch, in rising order: files are read from start to end."""
        items = np.flatnonzero(self.sizes)
        order = np.random.default_rng(derive_seed(self.seed, "items", epoch)).permutation(items)
        targets = self.total * np.arange(1, self.buffers) / self.buffers
        cuts = np.searchsorted(np.cumsum(self.sizes[order]), targets) + 1
        return [np.sort(members) for members in np.split(order, cuts)]

    def values(self, members: np.ndarray) -> np.ndarray:
        """Return the rows of a buffer's items."""
        if self.buffers > 1:
            return self.fill(members)
        if self.kept is None:
            self.kept = self.fill(members)
        return self.kept

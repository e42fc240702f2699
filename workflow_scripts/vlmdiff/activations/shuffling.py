"""Shuffling rows in large buffers: items in a random order, then the rows of many items among one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vlmdiff.runtime.seeds import derive_seed

LANE_BITS = 6
LANES = 2**LANE_BITS
# A buffer is cut into as many segments of neighbouring rows, and each feeds one lane. A segment's number has
# the bits of its lane the other way round, so that the lanes of one of 2, 4 or 8 processes lie together.
LANE_OF_SEGMENT = [int(f"{segment:0{LANE_BITS}b}"[::-1], 2) for segment in range(LANES)]
# Rows of a buffer from which on it has lanes: in a smaller one they would hardly be shuffled.
WITH_LANES = 2**14


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of every batch: rows `process`, `process + of`, `process + 2 of` …

    Attributes:
        process: which one, from 0 on.
        of: how many there are.
    """

    process: int = 0
    of: int = 1

    def rows(self, size: int) -> tuple[int, int]:
        """Return the first row of a buffer of `size` rows that the process needs, and the one after the last.

        Half, a quarter … of the buffer for 2, 4 … processes; as much for 6 processes as for 2, and all of a
        small buffer.
        """
        if size < WITH_LANES:
            return 0, size
        groups = math.gcd(self.of, LANES)
        mine = [lane % groups == self.process % groups for lane in LANE_OF_SEGMENT]
        least, more = divmod(size, LANES)
        first = mine.index(True)
        return first * least, (first + LANES // groups) * least + more


ALONE = Share()


def deal(size: int, row: int, rng: np.random.Generator) -> Int64[np.ndarray, " size"]:
    """Return the order in which a buffer's rows are drawn: in turn from its lanes, each of them shuffled.

    Args:
        size: rows of the buffer.
        row: row of the stream that the buffer begins with. Row `n` of the stream comes from lane `n % LANES`.
        rng: shuffles.
    """
    if size < WITH_LANES:
        return rng.permutation(size)
    order, start = np.empty(size, np.int64), 0
    for lane in LANE_OF_SEGMENT:
        places = order[(lane - row) % LANES :: LANES]
        places[:] = start + rng.permutation(len(places))
        start += len(places)
    return order


class ShuffledStream:
    """An endless stream of rows, each once an epoch, shuffled through a buffer.

    An item owns some rows: a window of a file, or a sample. Each epoch permutes the items, deals them to
    buffers of about equally many rows and shuffles the rows of each buffer (`deal`). A batch therefore mixes
    all the items of a buffer: the smaller an item, the more of them. Several processes share a batch out, and
    each asks for its part of a buffer alone. Row `n` is a function of seed, sizes and the
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
        self.kept: tuple[np.ndarray, int] | None = None
        # Epoch and number of the buffer that is drawn from.
        self.place = (0, 0)

    def batches(self, size: int, start_row: int, share: Share = ALONE) -> Iterator[np.ndarray]:
        """Yield the stream from `start_row` on in batches of exactly `size` rows, of each a share.

        Args:
            size: rows of a whole batch, a multiple of the number of processes.
            start_row: first row of the first batch, a multiple of `size`.
            share: which rows of each batch are wanted.
        """
        parts, missing = [], size // share.of
        for members, turn in self.turns(start_row, share):
            (values, skipped), first = self.values(members, share), 0
            while first < len(turn):
                taken = turn[first : first + missing]
                parts.append(values[taken - skipped])
                first, missing = first + len(taken), missing - len(taken)
                if not missing:
                    yield parts[0] if len(parts) == 1 else np.concatenate(parts)
                    parts, missing = [], size // share.of
            # Freed before the next buffer is filled: there is never more than one.
            del values

    def turns(self, start_row: int, share: Share) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each buffer's items and a share of its rows in their order, from row `start_row` on."""
        epoch, skip = divmod(start_row, self.total)
        row = start_row
        while True:
            for number, members in enumerate(self.plan(epoch)):
                size = int(self.sizes[members].sum())
                if skip >= size:
                    skip -= size
                    continue
                self.place = (epoch, number)
                rng = np.random.default_rng(derive_seed(self.seed, "rows", epoch, number))
                order = deal(size, row - skip, rng)[skip:]
                yield members, order[(share.process - row) % share.of :: share.of]
                row, skip = row + len(order), 0
            epoch += 1

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the items of each buffer of an epoch, in rising order: files are read from start to end."""
        items = np.flatnonzero(self.sizes)
        order = np.random.default_rng(derive_seed(self.seed, "items", epoch)).permutation(items)
        targets = self.total * np.arange(1, self.buffers) / self.buffers
        cuts = np.searchsorted(np.cumsum(self.sizes[order]), targets) + 1
        return [np.sort(members) for members in np.split(order, cuts)]

    def values(self, members: np.ndarray, share: Share) -> tuple[np.ndarray, int]:
        """Return the rows of a buffer that a share needs, and how many rows of the buffer precede them."""
        if self.kept is not None:
            return self.kept
        ends = np.cumsum(self.sizes[members])
        start, stop = share.rows(int(ends[-1]))
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left") + 1
        found = self.fill(members[first:last]), int(ends[first] - self.sizes[members[first]])
        if self.buffers == 1:
            self.kept = found
        return found

"""Which rows of which shard are read together: runs of selected rows in order, and windows to draw from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64

from vlmdiff.activations.format import chunk_cuts


@dataclass(frozen=True)
class Slab:
    """Neighbouring rows of one shard, of which some are selected.

    Attributes:
        shard: index of the shard.
        start: its first row.
        chosen: (rows,) True for selected rows.
    """

    shard: int
    start: int
    chosen: Bool[np.ndarray, " rows"]

    @property
    def rows(self) -> Int64[np.ndarray, " selected"]:
        """The selected rows, counted in the shard."""
        return self.start + np.flatnonzero(self.chosen)

    def read(self, read: Callable[..., np.ndarray], chunk: int, out: np.ndarray) -> None:
        """Write the selected rows into `out` (selected, d_model).

        Chunks of `chunk` rows are read one by one: one without a selected row not at all, one of which all
        are selected into its place. What is held besides `out` never exceeds a chunk, however far apart
        the selected rows lie.
        """
        done = 0
        for first, last in pairwise(chunk_cuts(self.start, self.start + len(self.chosen), chunk)):
            chosen = self.chosen[first - self.start : last - self.start]
            count = int(np.count_nonzero(chosen))
            place = out[done : done + count]
            if count == len(chosen):
                read(first, last, place)
            elif count:
                np.take(read(first, last), np.flatnonzero(chosen), axis=0, out=place, mode="clip")
            done += count


def group_slabs(masks: Iterable[Bool[np.ndarray, " _"]], size: int) -> Iterator[list[Slab]]:
    """Cut a series of shards into runs of `size` selected rows, over the ends of shards; fewer at the end.

    Args:
        masks: for each shard (rows,) True for selected rows.
        size: selected rows of a run.
    """
    group, room = [], size
    for shard, mask in enumerate(masks):
        selected = np.flatnonzero(mask)
        while len(selected):
            rows, selected = selected[:room], selected[room:]
            start = int(rows[0])
            group.append(Slab(shard, start, mask[start : int(rows[-1]) + 1]))
            room -= len(rows)
            if not room:
                yield group
                group, room = [], size
    if group:
        yield group


class Windows:
    """A series of shards, seen as one sequence of rows that is cut into windows of equal length.

    Windows run over the ends of shards: they do not depend on where the series is cut.

    Attributes:
        mask: (rows,) True for selected rows of the whole series.
        sizes: (windows,) int64, selected rows of each window.
    """

    def __init__(self, masks: Sequence[Bool[np.ndarray, " _"]], length: int) -> None:
        """Count.

        Args:
            masks: for each shard (rows,) True for selected rows.
            length: rows of a window.
        """
        self.length = length
        self.firsts = np.cumsum([0, *map(len, masks)])
        self.mask = np.concatenate(masks)
        starts = np.arange(0, len(self.mask), length)
        self.sizes = np.add.reduceat(self.mask, starts, dtype=np.int64)

    def slabs(self, members: Int64[np.ndarray, " members"]) -> list[Slab]:
        """Return what to read for some windows, given in rising order; neighbours are read together."""
        breaks = np.flatnonzero(np.diff(members) > 1) + 1
        return [
            slab
            for run in np.split(members, breaks)
            for slab in self._between(int(run[0]) * self.length, (int(run[-1]) + 1) * self.length)
        ]

    def _between(self, start: int, stop: int) -> Iterator[Slab]:
        """Yield the parts of rows `start:stop` of the series that lie in one shard each."""
        stop = min(stop, len(self.mask))
        shard = int(np.searchsorted(self.firsts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self.firsts[shard + 1]))
            if end > start:
                yield Slab(shard, start - int(self.firsts[shard]), self.mask[start:end])
            shard, start = shard + 1, end

"""What a source offers before images are looked for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from vlmdiff.data.images import Picture

Row = TypeVar("Row")


@dataclass(frozen=True)
class Candidate:
    """A sample to be.

    Attributes:
        values: keys of the sample's line, the image aside.
        picture: where its image comes from; None if it has none.
    """

    values: dict[str, Any]
    picture: Picture | None = None


@dataclass
class Offer:
    """Candidates of a source, in the order in which they are taken.

    Attributes:
        rows: for each row of the source in the chosen order a candidate, or None if it is not wanted.
        linked: folder that the data set's `images` links to; None if images are written there.
        origin: what exactly was read: commit, file names or digests.
    """

    rows: Iterable[Candidate | None]
    linked: Path | None = None
    origin: str = ""
    scanned: int = field(default=0, init=False)

    def take(self, samples: int | None, offset: int) -> list[Candidate]:
        """Return the first `samples` wanted candidates (None: all) after `offset` rows; counts the rows."""
        found: list[Candidate] = []
        for row in islice(iter(self.rows), offset, None):
            self.scanned += 1
            if row is not None:
                found.append(row)
            if len(found) == samples:
                break
        return found


def shuffled_in_buffer(rows: Iterable[Row], seed: int, size: int) -> Iterator[Row]:
    """Yield rows in an order that belongs to a seed, with no more than some of them in memory.

    Args:
        rows: the rows.
        seed: of the order.
        size: how many rows wait; each next one is drawn of these.
    """
    rng, waiting = random.Random(seed), []
    for row in rows:
        if len(waiting) < size:
            waiting.append(row)
            continue
        drawn = rng.randrange(size)
        yield waiting[drawn]
        waiting[drawn] = row
    rng.shuffle(waiting)
    yield from waiting


def shuffled(rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """Yield rows in the order that belongs to a seed."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return (rows[index] for index in order)

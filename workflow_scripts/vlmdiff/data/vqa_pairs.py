"""VQAv2's complementary pairs: one question about two similar images, with two answers (arXiv 1612.00837)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vlmdiff.data.offers import Candidate, shuffled
from vlmdiff.data.samples import DataError
from vlmdiff.runtime.reading import read_json

REMEDY = "expected a list of pairs of question numbers: download the authors' file again"


def read_pairs(file: Path) -> list[tuple[int, int]]:
    """Read the authors' list of pairs.

    Raises:
        DataError: it holds something else.
    """
    rows = read_json(file, REMEDY)
    if not isinstance(rows, list):
        raise DataError(f"{file}: found {type(rows).__name__}, {REMEDY}")
    for place, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 2 and all(type(one) is int for one in row)):
            raise DataError(f"{file}: entry {place}: found {str(row)[:120]}, {REMEDY}")
    return [(one, other) for one, other in rows]


def whole_pairs(
    candidates: Mapping[int, Candidate | None], pairs: Iterable[tuple[int, int]], seed: int
) -> Iterator[Candidate | None]:
    """Yield both questions of each pair that is wanted, in the order of a seed; None for the others.

    A question of several pairs is taken with the first one. The key `pair` tells which questions belong
    together.

    Args:
        candidates: of each question by its number; None if the entry does not ask for it.
        pairs: numbers of two questions each; pairs of other questions are left out.
        seed: of the order.
    """
    taken: set[int] = set()
    for pair in shuffled(list(pairs), seed):
        if not candidates.keys() >= set(pair) or taken & set(pair):
            continue
        taken |= set(pair)
        members = [candidates[number] for number in pair]
        if None in members:
            yield from (None, None)
            continue
        name = "_".join(map(str, sorted(pair)))
        yield from (Candidate(one.values | {"pair": name}, one.picture) for one in members)

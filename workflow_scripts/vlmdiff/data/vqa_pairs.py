"""VQAv2's complementary pairs: one question about two similar images, with two answers (arXiv 1612.00837)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
        if row[0] == row[1]:
            raise DataError(f"{file}: entry {place}: found {row}, a question with itself, {REMEDY}")
    if not rows:
        raise DataError(f"{file}: found an empty list, {REMEDY}")
    return [(one, other) for one, other in rows]


def complementary(
    pairs: Iterable[tuple[int, int]], rows: Mapping[int, Mapping[str, Any]], file: Path
) -> list[tuple[int, int]]:
    """Return the pairs of one question about two images, as the list promises.

    Args:
        pairs: numbers of two questions each.
        rows: each question by its number, with `question` and `image_id`.
        file: the list.

    Raises:
        DataError: there are none.
    """
    found = [
        pair
        for pair in pairs
        if rows.keys() >= set(pair)
        and rows[pair[0]]["question"] == rows[pair[1]]["question"]
        and rows[pair[0]]["image_id"] != rows[pair[1]]["image_id"]
    ]
    if not found:
        raise DataError(
            f"{file}: found no pair of one question about two images among {len(rows)} questions; take the "
            "list of the same split"
        )
    return found


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

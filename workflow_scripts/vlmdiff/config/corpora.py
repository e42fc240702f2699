"""Corpora at hand: whether they hold different documents for every part that is used."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from vlmdiff.config.documents import FEWEST_WORDS, document_of, rows_in
from vlmdiff.config.parts import allot
from vlmdiff.runtime.reading import DataError

# Of a corpus without parts there are at least so many different documents.
FEWEST = 2
# Nobody waits for more lines to be read before anything runs.
MOST_LINES = 1_000_000


def documents_in(file: Path, column: str, words: int) -> Iterator[str]:
    """Yield the documents of a file that holds one a line; see `document_of`.

    Raises:
        DataError: see `rows_in` and `document_of`.
    """
    for place, row in rows_in(file):
        if (document := document_of(row, column, words, place)) is not None:
            yield document


def check_different(
    documents: Iterable[str], place: str, shares: Mapping[str, float], used: Collection[str]
) -> None:
    """Refuse a corpus with too few different documents: the same text twice counts once.

    Reads only as many as are needed.

    Args:
        documents: the documents.
        place: where they come from, for messages.
        shares: of the parts into which the corpus is split.
        used: parts that something uses.

    Raises:
        DataError: naming how many there are, and how many are different.
    """
    used = [part for part, share in shares.items() if part in used and share > 0]
    enough = max([FEWEST, *(math.ceil(1 / shares[part]) for part in used)])
    found, different = 0, set()
    for found, document in enumerate(documents, start=1):  # noqa: B007
        different.add(document)
        if len(different) == enough or found == MOST_LINES:
            return
    counts = allot({"text": len(different)}, shares)["text"]
    empty = [part for part in used if not counts[part]]
    if len(different) >= FEWEST and not empty:
        return
    expected = f"some for each of {', '.join(used)}" if used else f"at least {FEWEST}"
    raise DataError(
        f"found {found} documents of at least {FEWEST_WORDS} words in {place}, {len(different)} of them "
        f"different, expected {expected}; add other text"
    )

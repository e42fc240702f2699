"""Documents of a corpus: which text a row holds, and whether there are different ones for every part."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmdiff.config.parts import allot
from vlmdiff.runtime.reading import DataError, needed, parse_json, stream_lines

# Documents of fewer words are passed over.
FEWEST_WORDS = 8
# Corpora of which documents can be told before anything runs: a document a line.
LINES = (".txt", ".jsonl")
# Of a corpus without parts there are at least so many different documents.
FEWEST = 2
# Nobody waits for more lines to be read before anything runs.
MOST_LINES = 1_000_000
REMEDY = "correct the file"


def document_of(row: Mapping[str, Any], column: str, words: int, place: str) -> str | None:
    """Return the document of a row, cut; None if it is too short.

    Args:
        row: the row.
        column: which of its values is the document.
        words: after so many it is cut.
        place: where the row comes from, for messages.

    Raises:
        DataError: the row has no such column, or it holds something else than text.
    """
    if column not in row:
        raise DataError(f"{place}: no column '{column}', found {sorted(row)}; set `column`")
    if not isinstance(row[column], str | None):
        raise DataError(
            f"{place}: column '{column}' holds {type(row[column]).__name__}, expected text; set `column`"
        )
    found = (row[column] or "").split()
    return " ".join(found[:words]) if len(found) >= FEWEST_WORDS else None


def documents_in(file: Path, column: str, words: int) -> Iterator[str]:
    """Yield the documents of a file that holds one a line; see `document_of`.

    Raises:
        DataError: the file cannot be read, a line is no JSON object, or see `document_of`.
    """
    is_json = file.suffix.lower() == ".jsonl"
    for number, line in stream_lines(file, REMEDY):
        place = f"{file}: line {number}"
        try:
            row = needed(parse_json(line), (), place, REMEDY) if is_json else {column: line}
        except DataError as error:
            raise error if place in str(error) else DataError(f"{place}: {error}; {REMEDY}") from None
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

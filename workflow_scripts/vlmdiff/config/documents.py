"""Documents of a corpus and how they are read. Jobs read them so, too: a change makes corpora stale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmdiff.runtime.reading import DataError, needed, parse_json, read_json, stream_lines

# Kinds of files that hold a document a line.
LINES = (".txt", ".jsonl")
# Of a line of plain text.
COLUMN = "text"
# Documents of fewer words are passed over.
FEWEST_WORDS = 8
REMEDY = "correct the file"
# Line feeds end lines already.
RETURN = re.compile("\r\n?")


def rows_in(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and row of each line of a file that is not blank; lines may end at carriage returns alone.

    A `.jsonl` may also be one JSON array.

    Args:
        file: a `.txt` or `.jsonl`, whose rows are `{"text": line}` or the objects.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object.
    """
    is_json = file.suffix.lower() == ".jsonl"
    for position, (number, line) in enumerate(lines_in(file)):
        place = f"{file}: line {number}"
        if not is_json:
            yield place, {COLUMN: line}
        elif position == 0 and line.lstrip().startswith("["):
            yield from rows_of_array(file)
            return
        else:
            yield place, needed(object_in(line, place), (), place, REMEDY)


def lines_in(file: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank."""
    for number, chunk in stream_lines(file, REMEDY):
        parts = RETURN.split(chunk.rstrip("\r\n"))
        yield from ((number + index, line) for index, line in enumerate(parts) if line.strip())


def object_in(line: str, place: str) -> Any:
    """Parse a line of JSON.

    Raises:
        DataError: it is none.
    """
    try:
        return parse_json(line)
    except DataError as error:
        raise DataError(f"{place}: {error}; {REMEDY}") from None


def rows_of_array(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and row of each entry of a file that is one JSON array; a text is a row of one column.

    Raises:
        DataError: the file is no JSON, or an entry neither an object nor a text.
    """
    for number, entry in enumerate(read_json(file, REMEDY), start=1):
        place = f"{file}: entry {number}"
        yield place, {COLUMN: entry} if isinstance(entry, str) else needed(entry, (), place, REMEDY)


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

"""Plain text: documents for a language model, cut to a number of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import TextDataset
from vlmdiff.config.documents import LINES, document_of, rows_in
from vlmdiff.config.sources import is_hub
from vlmdiff.data.offers import Candidate, Offer, shuffled, shuffled_in_buffer
from vlmdiff.data.tabular import SHUFFLE_BUFFER, files_of, open_table, read_rows

# Where a row comes from, for messages, and the row.
Placed = tuple[str, Mapping[str, Any]]


def offer_text(entry: TextDataset) -> Offer:
    """Return the documents of a corpus; those of too few words are passed over."""
    rows, origin = open_lines(entry) or open_rows(entry)
    return Offer((candidate(i, place, row, entry) for i, (place, row) in enumerate(rows)), origin=origin)


def open_lines(entry: TextDataset) -> tuple[Iterator[Placed], str] | None:
    """Return the rows of a corpus that holds a document a line, and its files; None for other kinds.

    They are read as they are before anything runs, when a corpus with too few documents is refused.
    """
    files = [] if is_hub(entry.source) else files_of(Path(entry.source), entry.split)
    kinds = {file.suffix for file in files}
    if len(kinds) != 1 or not kinds <= set(LINES):
        return None
    rows = (row for file in shuffled(files, entry.seed) for row in rows_in(file))
    return shuffled_in_buffer(rows, entry.seed, SHUFFLE_BUFFER), ", ".join(file.name for file in files)


def open_rows(entry: TextDataset) -> tuple[Iterable[Placed], str]:
    """Return the rows of any other table, and what was opened; see `open_table`."""
    table, origin = open_table(entry.source, entry.split, entry.seed, entry.config)
    return ((entry.source, row) for row in read_rows(table, entry.source)), origin


def candidate(number: int, place: str, row: Mapping[str, Any], entry: TextDataset) -> Candidate | None:
    """Make a document of a row.

    Raises:
        DataError: the row has no such column, or it holds something else than text.
    """
    document = document_of(row, entry.column, entry.words, place)
    if document is None:
        return None
    return Candidate({"sample_id": f"text_{number}", "prompt": document, "group": "text", "chat": False})

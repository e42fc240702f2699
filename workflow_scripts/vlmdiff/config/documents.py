"""Which text of a row is a document. Jobs read it too, so that a change makes corpora stale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdiff.runtime.reading import DataError

# Documents of fewer words are passed over.
FEWEST_WORDS = 8


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

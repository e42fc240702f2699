"""Plain text: documents for a language model, cut to a number of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdiff.config.datasets import TextDataset
from vlmdiff.config.documents import document_of
from vlmdiff.data.offers import Candidate, Offer
from vlmdiff.data.tabular import open_table, read_rows


def offer_text(entry: TextDataset) -> Offer:
    """Return the documents of a corpus; those of too few words are passed over."""
    table, origin = open_table(entry.source, entry.split, entry.seed, entry.config)
    return Offer(
        (candidate(i, row, entry) for i, row in enumerate(read_rows(table, entry.source))), origin=origin
    )


def candidate(number: int, row: Mapping[str, Any], entry: TextDataset) -> Candidate | None:
    """Make a document of a row.

    Raises:
        DataError: the row has no such column, or it holds something else than text.
    """
    document = document_of(row, entry.column, entry.words, entry.source)
    if document is None:
        return None
    return Candidate({"sample_id": f"text_{number}", "prompt": document, "group": "text", "chat": False})

"""Plain text: documents for a language model, cut to a number of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdiff.config.datasets import FEWEST_WORDS, TextDataset
from vlmdiff.data.offers import Candidate, Offer
from vlmdiff.data.samples import DataError
from vlmdiff.data.tabular import open_table, read_rows


def offer_text(entry: TextDataset) -> Offer:
    """Return the documents of a corpus; those of fewer than `FEWEST_WORDS` words are passed over."""
    table, origin = open_table(entry.source, entry.split, entry.seed, entry.config)
    return Offer(
        (candidate(i, row, entry) for i, row in enumerate(read_rows(table, entry.source))), origin=origin
    )


def candidate(number: int, row: Mapping[str, Any], entry: TextDataset) -> Candidate | None:
    """Make a document of a row.

    Raises:
        DataError: the row has no such column, or it holds something else than text.
    """
    if entry.column not in row:
        raise DataError(f"{entry.source}: no column '{entry.column}', found {sorted(row)}; set `column`")
    if not isinstance(row[entry.column], str | None):
        raise DataError(
            f"{entry.source}: column '{entry.column}' holds {type(row[entry.column]).__name__}, expected "
            "text; set `column`"
        )
    words = (row[entry.column] or "").split()
    if len(words) < FEWEST_WORDS:
        return None
    return Candidate(
        {
            "sample_id": f"text_{number}",
            "prompt": " ".join(words[: entry.words]),
            "group": "text",
            "chat": False,
        }
    )

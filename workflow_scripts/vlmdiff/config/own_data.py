"""The section `data`: a folder of photos, and text if there is some, from which all data sets are derived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from vlmdiff.config.absent import is_there, not_there
from vlmdiff.config.base import Section
from vlmdiff.config.corpora import check_different, documents_in
from vlmdiff.config.datasets import FROM_THE_HUB, TextDataset
from vlmdiff.config.documents import LINES
from vlmdiff.config.parts import Parts, split, units
from vlmdiff.config.record import Record
from vlmdiff.config.samples_file import find_samples, read_records
from vlmdiff.config.sources import check_source
from vlmdiff.config.subsets import keys_of
from vlmdiff.runtime.reading import DataError

# What the data set of the photos is called.
PHOTOS = "photos"
# Shares of the photos, with a corpus beside them and without one, and of the corpus.
WITH_TEXT = {"train": 0.6, "null": 0.0, "validation": 0.2, "test": 0.2}
PHOTOS_ALONE = {"train": 0.4, "null": 0.2, "validation": 0.2, "test": 0.2}
CORPUS = {"train": 0.6, "null": 0.2, "validation": 0.2, "test": 0.0}
# A word is so many tokens, more or less.
TOKENS_A_WORD = 1.4


class OwnData(Section):
    """Your own photos and text; data sets, their parts and all that is asked of them follow from it."""

    photos: str = Field(
        description="Folder with samples.jsonl or samples.csv and the photos that it names; or that file."
    )
    text: str | None = Field(
        None,
        description="Text that the language model reads, a document a line (.txt, .jsonl); left out: the "
        "texts of the photos' samples.",
    )

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the data sets that are here: `photos`, and `text` if there is one.

        Raises:
            ValueError: a file is wrong or not there; the message names the key.
        """
        try:
            records = read_records(check_source(self.photos, advice=FROM_THE_HUB))
        except ValueError as error:
            raise ValueError(f"data.photos: {error}") from None
        if all(record["image"] is None for record in records):
            others = sorted(set(records[0]) - set(Record.model_fields))
            raise ValueError(
                f"data.photos: no sample in {find_samples(self.photos)} has `image`, the path of its photo; "
                f"found {', '.join(others) or 'no other keys'}; rename what you call it"
            )
        shares = PHOTOS_ALONE if self.text is None else WITH_TEXT
        found = {
            PHOTOS: {
                "path": self.photos,
                "parts": shares,
                "samples": len(records),
                "text_tokens": tokens_of([len(record["prompt"].split()) for record in records]),
            }
        }
        if self.text is not None:
            lengths = document_lengths(self.text)
            found["text"] = {
                "kind": "text",
                "source": self.text,
                "parts": CORPUS,
                "samples": len(lengths),
                "text_tokens": tokens_of(lengths),
            }
        return found

    def check_parts(self, shares: Mapping[str, float]) -> None:
        """Refuse fewer photos than every part needs to have one.

        Args:
            shares: of the photos, by part.

        Raises:
            ValueError: naming the parts that have none.
        """
        records = read_records(self.photos)
        keys, groups = list(map(keys_of, records)), [record["group"] for record in records]
        found = set(split(keys, groups, Parts(**shares)))
        if empty := [part for part, share in shares.items() if share and part not in found]:
            raise ValueError(
                f"data.photos: found {len(set(units(keys)))} photos in {find_samples(self.photos)}, which "
                f"leave none for the part {' and '.join(empty)}; add photos (sixty give a first look)"
            )

    def open_answers(self) -> tuple[int, int]:
        """Return how many samples have open answers, which nothing can score, and how many there are."""
        records = read_records(self.photos)
        return sum(record["choices"] is None or record["answer"] is None for record in records), len(records)

    def groups(self) -> list[str]:
        """Return the groups of the samples, sorted."""
        return sorted({record["group"] for record in read_records(self.photos)})

    def note(self) -> str | None:
        """Say which samples nothing is scored on; None if there are none."""
        found, count = self.open_answers()
        if not found:
            return None
        told = f"{found} of {count} samples in {self.photos} lack `choices` or `answer`"
        left_out = "ablation and heads are left out" if found == count else "they are not scored"
        return f"data: {told}: {left_out}"


def tokens_of(lengths: Sequence[int]) -> int:
    """Return about how many tokens a text has.

    Args:
        lengths: words of each text.
    """
    return max(1, round(TOKENS_A_WORD * sum(lengths) / len(lengths)))


def document_lengths(source: str) -> list[int]:
    """Return how many words of each document of a corpus are used.

    Raises:
        ValueError: there is no such file, none of a kind whose documents can be counted, or too few different
            documents.
    """
    file = Path(source)
    if not is_there(file):
        raise ValueError(f"data.text: {not_there(source, source)}")
    if file.suffix.lower() not in LINES or not file.is_file():
        found = "a file of another kind" if file.is_file() else "a folder"
        raise ValueError(
            f"data.text: found '{source}' ({found}), expected a file with a document a line, .txt or .jsonl; "
            "correct it, or declare the corpus in `datasets` as `text`"
        )
    fields = TextDataset.model_fields
    try:
        documents = list(documents_in(file, fields["column"].default, fields["words"].default))
        check_different(documents, source, CORPUS, CORPUS)
    except DataError as error:
        raise ValueError(f"data.text: {error}") from None
    return [len(document.split()) for document in documents]

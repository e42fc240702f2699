"""What's Up: photographs of two objects in controlled relations (arXiv 2310.19785)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import WhatsUpDataset
from vlmdiff.data.images import LocalImage
from vlmdiff.data.offers import Candidate, Offer, shuffled
from vlmdiff.data.samples import DataError
from vlmdiff.runtime.reading import needed, read_json

REMEDY = "expected the authors' annotations: correct or download the file again"

# In the order of matching: the longer phrases hold the shorter ones.
PREPOSITIONS = ("in front of", "to the left of", "to the right of", "behind", "under", "on")


def offer_whats_up(entry: WhatsUpDataset) -> Offer:
    """Return two statements a photograph: the right one, and one of its wrong ones.

    The split is the first part of the file's name: `controlled_images` or `controlled_clevr`.

    Raises:
        DataError: the file is missing.
    """
    root = Path(entry.source).resolve()
    file = root / f"{entry.split}_dataset.json"
    if not file.is_file():
        found = sorted(path.name for path in root.glob("*_dataset.json"))
        raise DataError(f"{file}: no such file, found {found}; set `split`, e.g. controlled_images")
    rng, rows = random.Random(entry.seed), []
    for number, row in enumerate(annotations(file)):
        right, *wrong = row["caption_options"]
        rows += [(number, row, right, "Yes"), (number, row, rng.choice(wrong), "No")]
    return Offer((candidate(*one, entry, root) for one in shuffled(rows, entry.seed)), root, file.name)


def annotations(file: Path) -> list[dict[str, Any]]:
    """Read the authors' file: a list of photographs, each with its captions, the right one first.

    Raises:
        DataError: it holds something else.
    """
    rows = read_json(file, REMEDY)
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a list, found {type(rows).__name__}; {REMEDY}")
    for number, row in enumerate(rows):
        place = f"{file}: entry {number}"
        values = needed(row, ("image_path", "caption_options"), place, REMEDY)
        options = values["caption_options"]
        texts = isinstance(options, list) and all(isinstance(one, str) and one for one in options)
        if not texts or len(set(options)) < max(2, len(options)):
            raise DataError(
                f"{place}: caption_options: found {str(options)[:120]}, expected at least two different "
                f"texts; {REMEDY}"
            )
        if not isinstance(values["image_path"], str):
            raise DataError(f"{place}: image_path: found {values['image_path']!r}, expected a text; {REMEDY}")
    return rows


def preposition(caption: str) -> str:
    """Return the relation that a caption states."""
    padded = f" {caption.lower()} "
    return next((one for one in PREPOSITIONS if f" {one} " in padded), "other")


def candidate(
    number: int, row: dict[str, Any], caption: str, answer: str, entry: WhatsUpDataset, root: Path
) -> Candidate:
    """Make a yes/no question of a caption."""
    # The published paths begin with the authors' data folder.
    name = row["image_path"].removeprefix("data/")
    values = {
        "sample_id": f"whatsup_{entry.split}_{number}_{answer.lower()}",
        "prompt": entry.prompt.replace("{caption}", caption),
        "answer": answer,
        "choices": ["Yes", "No"],
        "group": preposition(caption) if entry.group_by == "relation" else answer,
        "caption": caption,
        "relation": preposition(caption),
    }
    return Candidate(values, LocalImage(root, [name, Path(name).name]))

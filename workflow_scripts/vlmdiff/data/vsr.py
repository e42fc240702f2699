"""Visual Spatial Reasoning: statements over COCO images, true or false (arXiv 2205.00363)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import VsrDataset
from vlmdiff.config.sources import HubSource, is_hub
from vlmdiff.data.identity import coco_id_of_file
from vlmdiff.data.images import LinkedImage, LocalImage, Picture
from vlmdiff.data.offers import Candidate, Offer, shuffled
from vlmdiff.data.samples import DataError
from vlmdiff.runtime.reading import needed, read_json_lines, whole_number

NEEDED = ("image", "caption", "label", "relation")
REMEDY = "expected VSR's annotations: correct or download the file again"


def offer_vsr(entry: VsrDataset) -> Offer:
    """Return the statements of a split.

    Raises:
        DataError: the file is missing or has other keys.
        HubError: the hub cannot be reached.
    """
    file = split_file(entry)
    keys = (*NEEDED, *(["image_link"] if entry.images is None else []))
    rows = [checked(row, keys, f"{file}: line {i}") for i, row in read_json_lines(file, REMEDY)]
    linked = Path(entry.images or entry.image_cache).resolve()
    if entry.images is not None and not linked.is_dir():
        raise DataError(f"images: no folder {entry.images}; give the folder of COCO images, or leave it out")
    numbered = list(enumerate(rows))
    made = (candidate(number, row, entry, linked) for number, row in shuffled(numbered, entry.seed))
    return Offer(made, linked, file.name if not is_hub(entry.source) else entry.source)


def checked(row: Any, keys: Sequence[str], place: str) -> dict[str, Any]:
    """Return an annotation with the keys that are needed; its label is 0 or 1, the others are texts.

    Raises:
        DataError: it is another.
    """
    values = needed(row, keys, place, REMEDY)
    for key in keys:
        if key == "label":
            values[key] = whole_number(values[key], (0, 1), f"{place}: {key}", REMEDY)
        elif not isinstance(values[key], str):
            raise DataError(f"{place}: {key}: found {values[key]!r}, expected a text; {REMEDY}")
    return values


def split_file(entry: VsrDataset) -> Path:
    """Return the annotations of a split."""
    name = f"{entry.split}.jsonl"
    if is_hub(entry.source):
        from vlmdiff.hub.fetch import fetch_file

        return fetch_file(HubSource.parse(entry.source), name, "dataset")
    file = Path(entry.source) / name
    if not file.is_file():
        found = sorted(path.name for path in Path(entry.source).glob("*.jsonl"))
        raise DataError(f"{file}: no such file, found {found}; set `source` and `split`")
    return file


def candidate(number: int, row: dict[str, Any], entry: VsrDataset, linked: Path) -> Candidate:
    """Make a yes/no question of a statement."""
    caption = row["caption"].strip()
    answer = "Yes" if row["label"] == 1 else "No"
    values = {
        "sample_id": f"vsr_{entry.split}_{number}",
        "prompt": entry.prompt.replace("{caption}", caption),
        "answer": answer,
        "choices": ["Yes", "No"],
        "group": row["relation"] if entry.group_by == "relation" else answer,
        "caption": caption,
        "relation": row["relation"],
        "image_id": coco_id_of_file(row["image"]),
    }
    return Candidate(values, picture(row, entry, linked))


def picture(row: dict[str, Any], entry: VsrDataset, linked: Path) -> Picture:
    """Return where the image of a statement comes from."""
    if entry.images is None:
        return LinkedImage(row["image_link"], linked)
    name = row["image"]
    return LocalImage(linked, [name, f"train2017/{name}", f"val2017/{name}"])

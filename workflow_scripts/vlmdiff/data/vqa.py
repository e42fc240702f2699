"""VQAv2: questions about COCO images (arXiv 1612.00837)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import VqaDataset
from vlmdiff.config.sources import is_hub
from vlmdiff.data.candidates import Candidate, Offer, shuffled
from vlmdiff.data.images import LocalImage, Picture, StoredImage
from vlmdiff.data.samples import DataError
from vlmdiff.data.spatial_words import spatial_group
from vlmdiff.data.tabular import open_table


def offer_vqa(entry: VqaDataset) -> Offer:
    """Return the questions of VQAv2 that an entry asks for.

    Raises:
        DataError: files are missing.
    """
    if not is_hub(entry.source) and list(Path(entry.source).glob("*_questions.json")):
        return official(entry)
    table, origin = open_table(entry.source, entry.split, entry.seed)
    return Offer((candidate(row, stored_image(row), entry) for row in table), origin=origin)


def official(entry: VqaDataset) -> Offer:
    """Read the JSON files that the authors publish."""
    folder = Path(entry.source)
    if entry.images is None or not Path(entry.images).is_dir():
        raise DataError(
            f"images: found {entry.images!r}, expected the folder of COCO images for the files in {folder}"
        )
    questions = only_file(folder, f"*_{entry.split}*_questions.json")
    answers = only_file(folder, f"*_{entry.split}*_annotations.json")
    found = {one["question_id"]: one for one in json.loads(answers.read_text())["annotations"]}
    rows = [one | found[one["question_id"]] for one in json.loads(questions.read_text())["questions"]]
    root = Path(entry.images).resolve()
    made = (
        candidate(row, coco_image(root, int(row["image_id"])), entry) for row in shuffled(rows, entry.seed)
    )
    return Offer(made, root, f"{questions.name}, {answers.name}")


def only_file(folder: Path, pattern: str) -> Path:
    """Return the file that fits a pattern.

    Raises:
        DataError: none or several do.
    """
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(
            f"{folder}: found {[file.name for file in found]}, expected one {pattern}; set `split` to "
            "train or val and put the official files there"
        )
    return found[0]


def coco_image(root: Path, image_id: int) -> LocalImage:
    """Return a COCO image by its number, under the names of the 2014 and the 2017 release."""
    plain, names = f"{image_id:012d}.jpg", []
    for part in ("train", "val"):
        dated = f"COCO_{part}2014_{plain}"
        names += [dated, f"{part}2014/{dated}", f"{part}2017/{plain}"]
    return LocalImage(root, [plain, *names])


def stored_image(row: Mapping[str, Any]) -> Picture:
    """Return the image that a row of the hub's table holds."""
    image = row["image"] or {}
    name = str(row.get("image_id") or row["question_id"])
    suffix = ".png" if (image.get("bytes") or b"").startswith(b"\x89PNG") else ".jpg"
    return StoredImage(f"{name}{suffix}", image.get("bytes"))


def candidate(row: Mapping[str, Any], picture: Picture, entry: VqaDataset) -> Candidate | None:
    """Make a sample of a row; None if the entry does not ask for such questions.

    Its group is the spatial group of its first spatial phrase, else the question type.
    """
    question, answer = str(row["question"]).strip(), row.get("multiple_choice_answer")
    spatial = spatial_group(question)
    unwanted = {"all": False, "spatial": spatial is None, "not_spatial": spatial is not None}
    closed = entry.answers == "yes_no"
    if unwanted[entry.questions] or (closed and answer not in ("yes", "no")):
        return None
    return Candidate(
        {
            "sample_id": f"vqa_{row['question_id']}",
            "prompt": entry.prompt.replace("{question}", question),
            "answer": str(answer).capitalize() if closed else answer,
            "choices": ["Yes", "No"] if closed else None,
            "group": spatial or str(row.get("question_type") or "other"),
            "question": question,
            "answer_type": row.get("answer_type"),
        },
        picture,
    )

"""VQAv2: questions about COCO images (arXiv 1612.00837)."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import VqaDataset
from vlmdiff.config.sources import is_hub
from vlmdiff.data.identity import coco_id
from vlmdiff.data.images import LocalImage, Picture, stored_image
from vlmdiff.data.offers import Candidate, Offer, shuffled
from vlmdiff.data.samples import DataError
from vlmdiff.data.spatial_words import asked_for, spatial_group
from vlmdiff.data.tabular import open_table, with_columns
from vlmdiff.data.vqa_pairs import complementary, read_pairs, whole_pairs
from vlmdiff.runtime.reading import needed, read_json, whole_number

REMEDY = "expected VQAv2: correct the files or download them again"


def offer_vqa(entry: VqaDataset) -> Offer:
    """Return the questions of VQAv2 that an entry asks for.

    Raises:
        DataError: files are missing.
    """
    pairs = listed_pairs(entry)
    if is_official(entry):
        return official(entry, pairs)
    table, origin = open_table(entry.source, entry.split, entry.seed)
    rows = with_columns(table, ("question_id", "question", "image"), entry.source)
    return Offer((candidate(row, image_in(row, entry.source), entry) for row in rows), origin=origin)


def is_official(entry: VqaDataset) -> bool:
    """Tell whether a source is a folder with the authors' files."""
    return not is_hub(entry.source) and any(Path(entry.source).glob("*_questions.json"))


def listed_pairs(entry: VqaDataset) -> list[tuple[int, int]]:
    """Return the pairs of an entry that asks for them; nothing if it does not.

    Raises:
        DataError: there is no list, or it is wrong.
    """
    if not entry.pairs:
        return []
    if not is_official(entry):
        raise DataError(
            f"pairs: found true with {entry.source}, expected the official files, of which one lists the "
            "pairs; without the list samples of equal questions are compared (`strata: prompt`)"
        )
    return read_pairs(pair_file(entry))


def pair_file(entry: VqaDataset) -> Path:
    """Return the authors' list of pairs."""
    return only_file(Path(entry.source), f"*_{glob.escape(entry.split)}*_complementary_pairs.json")


def official(entry: VqaDataset, listed: list[tuple[int, int]]) -> Offer:
    """Read the JSON files that the authors publish; of an entry with pairs, those that are listed."""
    questions, answers = official_files(entry)
    found = {one["question_id"]: one for one in entries(answers, "annotations", ())}
    asked = entries(questions, "questions", ("question",))
    if unanswered := [one["question_id"] for one in asked if one["question_id"] not in found]:
        raise DataError(f"{answers}: no annotation of question {unanswered[0]}; {REMEDY}")
    for one in asked:
        shown = found[one["question_id"]]["image_id"]
        if shown != one["image_id"]:
            raise DataError(
                f"{answers}: question {one['question_id']} is about image {shown}, but in {questions.name} "
                f"about {one['image_id']}; {REMEDY}"
            )
    rows = [one | found[one["question_id"]] for one in asked]
    root, origin = Path(entry.images).resolve(), f"{questions.name}, {answers.name}"

    def made(row: dict[str, Any]) -> Candidate | None:
        return candidate(row, coco_image(root, row["image_id"]), entry)

    if not entry.pairs:
        return Offer(map(made, shuffled(rows, entry.seed)), root, origin)
    file = pair_file(entry)
    pairs = complementary(listed, {row["question_id"]: row for row in rows}, file)
    found = {row["question_id"]: made(row) for row in rows}
    return Offer(whole_pairs(found, pairs, entry.seed), root, f"{origin}, {file.name}")


def official_files(entry: VqaDataset) -> tuple[Path, Path]:
    """Return the authors' files of questions and of annotations.

    Raises:
        DataError: they are not there, or the folder of their images is not.
    """
    folder = Path(entry.source)
    if entry.images is None or not Path(entry.images).is_dir():
        raise DataError(
            f"images: found {entry.images!r}, expected the folder of COCO images for the files in {folder}"
        )
    names = (f"*_{glob.escape(entry.split)}*_{kind}.json" for kind in ("questions", "annotations"))
    questions, answers = (only_file(folder, name) for name in names)
    return questions, answers


def entries(file: Path, key: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Read a list of an official file, whose entries have a question and an image by number.

    Raises:
        DataError: it holds something else.
    """
    content = needed(read_json(file, REMEDY), (key,), str(file), REMEDY)
    if not isinstance(content[key], list):
        raise DataError(f"{file}: {key}: expected a list, found {type(content[key]).__name__}; {REMEDY}")
    rows = []
    for number, row in enumerate(content[key]):
        place = f"{file}: {key} {number}"
        values = needed(row, ("question_id", "image_id", *keys), place, REMEDY)
        numbers = {
            name: whole_number(values[name], None, f"{place}: {name}", REMEDY)
            for name in ("question_id", "image_id")
        }
        rows.append({**values, **numbers})
    return rows


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


def image_in(row: Mapping[str, Any], source: str) -> Picture:
    """Return the image that a row of the hub's table holds.

    Raises:
        DataError: it holds something else.
    """
    name = str(row.get("image_id") or row["question_id"])
    return stored_image(row["image"], name, f"{source}: image of question {row['question_id']!r}", REMEDY)


def candidate(row: Mapping[str, Any], picture: Picture, entry: VqaDataset) -> Candidate | None:
    """Make a sample of a row; None if the entry does not ask for such questions.

    Its group is the spatial group of its first spatial phrase, else the question type.
    """
    if not isinstance(row["question"], str):
        raise DataError(
            f"{entry.source}: question {row['question_id']!r}: found {row['question']!r}, expected a text; "
            f"{REMEDY}"
        )
    question, answer = row["question"].strip(), row.get("multiple_choice_answer")
    spatial = spatial_group(question)
    closed = entry.answers == "yes_no"
    if not asked_for(spatial, entry.questions) or (closed and answer not in ("yes", "no")):
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
            "image_id": public_image(row, entry),
        },
        picture,
    )


def public_image(row: Mapping[str, Any], entry: VqaDataset) -> str | None:
    """Return the public id of a question's picture, which is COCO's; None if the row does not tell it.

    Raises:
        DataError: it is no number.
    """
    if (value := row.get("image_id")) is None:
        return None
    place = f"{entry.source}: image_id of question {row['question_id']!r}"
    return coco_id(whole_number(value, None, place, REMEDY))

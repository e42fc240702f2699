"""GQA: questions made from scene graphs of images, each with its program (arXiv 1902.09506)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import GqaDataset
from vlmdiff.data.identity import coco_id
from vlmdiff.data.images import LocalImage
from vlmdiff.data.offers import Candidate, Offer, shuffled
from vlmdiff.data.samples import DataError
from vlmdiff.data.spatial_words import asked_for, spatial_group
from vlmdiff.runtime.reading import needed, read_json, whole_number

REMEDY = "expected GQA's questions: correct or download the file again"
GENOME = "expected Visual Genome's image_data.json: correct or download it again"
TYPES = ("structural", "semantic", "detailed")
# Steps of a program that name a relation (`OBJECT,RELATION,ROLE`), and those that name a place.
RELATIONS = ("relate", "verify rel", "choose rel")
PLACES = ("hposition", "vposition")
# Of Visual Genome's images, and of those that testdev took from elsewhere.
NUMBER = re.compile(r"n?[0-9]{1,18}")
CLOSED = {"yes": "Yes", "no": "No"}


def offer_gqa(entry: GqaDataset) -> Offer:
    """Return the questions of GQA that an entry asks for.

    Raises:
        DataError: a file is missing or wrong.
    """
    file, root = check_files(entry)
    rows = questions_in(file)
    coco = {} if entry.coco_ids is None else coco_numbers(Path(entry.coco_ids))
    made = (candidate(number, row, entry, root, coco) for number, row in shuffled(rows, entry.seed))
    return Offer(made, root, file.name)


def check_files(entry: GqaDataset) -> tuple[Path, Path]:
    """Return the file of questions and the folder of images.

    Raises:
        DataError: one of them is not there.
    """
    file, root = Path(entry.source) / f"{entry.split}_questions.json", Path(entry.images).resolve()
    if not file.is_file():
        found = sorted(path.name for path in Path(entry.source).glob("*_questions.json"))
        raise DataError(f"{file}: no such file, found {found}; set `split`, e.g. val_balanced")
    if not root.is_dir():
        raise DataError(f"images: no folder {entry.images}; give the folder of GQA's images")
    if entry.coco_ids is not None and not Path(entry.coco_ids).is_file():
        raise DataError(f"coco_ids: no file {entry.coco_ids}; give Visual Genome's image_data.json")
    return file, root


def questions_in(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read an official file: an object of questions by number, each with its answer, types and program.

    Raises:
        DataError: it holds something else.
    """
    rows = read_json(file, REMEDY)
    if not isinstance(rows, dict):
        raise DataError(f"{file}: expected an object of questions, found {type(rows).__name__}; {REMEDY}")
    return [(number, checked(row, f"{file}: question {number}")) for number, row in rows.items()]


def checked(row: Any, place: str) -> dict[str, Any]:
    """Return a question whose parts are what they should be.

    Raises:
        DataError: naming the part, what was found and what was expected.
    """
    values = needed(row, ("question", "imageId", "answer", "types", "semantic"), place, REMEDY)
    types = needed(values["types"], TYPES, f"{place}: types", REMEDY)
    texts = {key: values[key] for key in ("question", "imageId", "answer")}
    for key, value in {**texts, **{f"types: {one}": types[one] for one in TYPES}}.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{place}: {key}: found {value!r}, expected a text; {REMEDY}")
    if not NUMBER.fullmatch(values["imageId"]):
        raise DataError(f"{place}: imageId: found {values['imageId']!r}, expected a number; {REMEDY}")
    steps = values["semantic"]
    if not isinstance(steps, list) or not all(map(is_step, steps)):
        raise DataError(
            f"{place}: semantic: found {str(steps)[:120]}, expected a list of steps with `operation` and "
            f"`argument`; {REMEDY}"
        )
    return values


def is_step(step: Any) -> bool:
    """Tell whether something is a step of a program."""
    return isinstance(step, dict) and all(isinstance(step.get(k), str) for k in ("operation", "argument"))


def coco_numbers(file: Path) -> dict[str, int]:
    """Return COCO's number of each image of Visual Genome that COCO has too.

    Raises:
        DataError: the file holds something else.
    """
    rows, found = read_json(file, GENOME), {}
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a list of images, found {type(rows).__name__}; {GENOME}")
    for place, row in enumerate(rows):
        where = f"{file}: entry {place}"
        values = needed(row, ("image_id", "coco_id"), where, GENOME)
        number = whole_number(values["image_id"], None, f"{where}: image_id", GENOME)
        if values["coco_id"] is not None:
            found[str(number)] = whole_number(values["coco_id"], None, f"{where}: coco_id", GENOME)
    return found


def relation_in(steps: Sequence[Mapping[str, str]], answer: str) -> str | None:
    """Return the last relation or place that a program names; of several, or if asked for, the right one."""
    for step in reversed(steps):
        operation, argument = step["operation"], step["argument"].strip()
        if operation == "query" and argument in PLACES:
            return answer
        parts = [part.strip() for part in argument.split(",")]
        named = parts[1] if operation in RELATIONS and len(parts) > 1 else None
        if operation.split(" ")[-1] in PLACES:
            named = argument
        if named:
            options = [option.strip() for option in named.split("|")]
            return right_of(options, answer) or (named if len(options) == 1 else None)
    return None


def right_of(options: Sequence[str], answer: str) -> str | None:
    """Return the option that an answer means, in whole or by what tells it from the others."""
    for names in (options, short(options)):
        if answer in names:
            return options[names.index(answer)]
    return None


def short(options: Sequence[str]) -> list[str]:
    """Leave out the words with which all options begin or end, because first tokens must tell them apart."""
    words = [option.split() for option in options]
    first = len(commonprefix(words))
    last = len(commonprefix([one[first:][::-1] for one in words]))
    left = [" ".join(one[first : len(one) - last]) for one in words]
    return left if all(left) else list(options)


def choices_of(row: Mapping[str, Any]) -> tuple[list[str], str] | None:
    """Return the possible answers that a question names, and the right one; None if it names none."""
    answer, steps = row["answer"].strip(), row["semantic"]
    if answer in CLOSED:
        return list(CLOSED.values()), CLOSED[answer]
    if not steps or not steps[-1]["operation"].startswith("choose"):
        return None
    argument = steps[-1]["argument"]
    if steps[-1]["operation"] in RELATIONS:
        argument = f"{argument},".split(",")[1]
    options = [option.strip() for option in argument.split("|")]
    right = right_of(options, answer)
    if right is None or len(options) < 2 or len(set(options)) < len(options):
        return None
    return short(options), short(options)[options.index(right)]


def candidate(
    number: str, row: Mapping[str, Any], entry: GqaDataset, root: Path, coco: Mapping[str, int]
) -> Candidate | None:
    """Make a sample of a question; None if the entry does not ask for it."""
    question, image = row["question"].strip(), row["imageId"]
    spatial, closed = spatial_group(question), choices_of(row)
    kinds = {name: row["types"][name] for name in TYPES}
    yes_no = row["answer"].strip() in CLOSED
    wanted = {"any": True, "yes_no": yes_no, "choices": closed is not None}
    if not (asked_for(spatial, entry.questions) and wanted[entry.answers]):
        return None
    choices, answer = closed or (None, row["answer"].strip())
    relation = relation_in(row["semantic"], row["answer"].strip())
    groups = {"spatial": spatial or kinds["semantic"], "relation": relation or "other", **kinds}
    values = {
        "sample_id": f"gqa_{number}",
        "prompt": entry.prompt.replace("{question}", question),
        "answer": answer,
        "choices": choices,
        "group": groups[entry.group_by],
        "question": question,
        "relation": relation,
        **kinds,
        "image_id": public_image(image, coco),
    }
    names = [f"{folder}{image}.jpg" for folder in ("", "VG_100K/", "VG_100K_2/")]
    return Candidate(values, LocalImage(root, names))


def public_image(number: str, coco: Mapping[str, int]) -> str:
    """Return the public id of an image: COCO's where that is known, else Visual Genome's or GQA's own."""
    if number in coco:
        return coco_id(coco[number])
    return f"gqa:{number}" if number.startswith("n") else f"vg:{int(number)}"

"""CV-Bench: questions of multiple choice about where, how many and how near (arXiv 2406.16860)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from vlmdiff.config.datasets import DIMENSIONS, CvBenchDataset
from vlmdiff.config.sources import is_hub
from vlmdiff.data.identity import coco_id_of_file
from vlmdiff.data.images import stored_image
from vlmdiff.data.offers import Candidate, Offer
from vlmdiff.data.samples import DataError
from vlmdiff.data.tabular import open_table, with_columns
from vlmdiff.runtime.reading import whole_number

COLUMNS = ("idx", "task", "question", "choices", "answer", "image", "source", "source_filename")
REMEDY = "expected CV-Bench: correct the file or download it again"
# The right choice of a row: `(B)`.
LETTER = re.compile(r"\(([A-Z])\)")
RELATION = "Relation"


def offer_cv_bench(entry: CvBenchDataset) -> Offer:
    """Return the questions of CV-Bench that an entry asks for.

    Raises:
        DataError: files are missing, or a row is wrong.
        HubError: the hub cannot be reached.
    """
    files = entry.split if is_hub(entry.source) else entry.files
    table, origin = open_table(entry.source, files, entry.seed, entry.config)
    return Offer((candidate(row, entry) for row in with_columns(table, COLUMNS, entry.source)), origin=origin)


def checked(row: Mapping[str, Any], source: str) -> tuple[int, list[str], str]:
    """Return number and choices of a row, and the letter of the right one.

    Raises:
        DataError: naming the row, what was found and what was expected.
    """
    number = whole_number(row["idx"], None, f"{source}: idx", REMEDY)
    place = f"{source}: question {number}"
    for key in ("question", "source", "source_filename"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise DataError(f"{place}: {key}: found {row[key]!r}, expected a text; {REMEDY}")
    if str(row["task"]) not in DIMENSIONS:
        raise DataError(f"{place}: task: found {row['task']!r}, expected {', '.join(DIMENSIONS)}; {REMEDY}")
    choices = row["choices"]
    texts = isinstance(choices, list) and all(isinstance(one, str) and one.strip() for one in choices)
    if not texts or not 2 <= len(set(choices)) == len(choices) <= len(ascii_uppercase):
        raise DataError(
            f"{place}: choices: found {str(choices)[:120]}, expected at least two different texts; {REMEDY}"
        )
    letters = ascii_uppercase[: len(choices)]
    found = LETTER.fullmatch(row["answer"].strip()) if isinstance(row["answer"], str) else None
    if found is None or found[1] not in letters:
        raise DataError(
            f"{place}: answer: found {row['answer']!r}, expected one of (A) to ({letters[-1]}), a letter for "
            f"each of the choices {choices}; {REMEDY}"
        )
    return number, choices, found[1]


def candidate(row: Mapping[str, Any], entry: CvBenchDataset) -> Candidate | None:
    """Make a question with lettered choices of a row; None if the entry does not ask for its task."""
    number, choices, letter = checked(row, entry.source)
    if row["task"] not in entry.tasks:
        return None
    letters, question = list(ascii_uppercase[: len(choices)]), row["question"].strip()
    right = choices[letters.index(letter)].strip()
    listed = "\n".join(f"{one}. {text.strip()}" for one, text in zip(letters, choices, strict=True))
    relation = right if row["task"] == RELATION else None
    groups = {"relation": relation or row["task"], "task": row["task"], "answer": letter}
    values = {
        "sample_id": f"cvbench_{number}",
        "prompt": filled(entry.prompt, {"question": question, "choices": listed}),
        "answer": letter,
        "choices": letters,
        "group": groups[entry.group_by],
        "question": question,
        "answer_text": right,
        "relation": relation,
        "task": row["task"],
        "image_id": public_image(row["source"], row["source_filename"]),
    }
    # Two questions about one photograph have boxes of their own, so that each has a file of its own.
    place = f"{entry.source}: image of question {number}"
    return Candidate(values, stored_image(row["image"], f"cvbench_{number}", place, REMEDY))


def filled(prompt: str, parts: Mapping[str, str]) -> str:
    """Return a prompt with its places filled in; what is filled in holds no places."""
    return re.sub(r"\{(question|choices)\}", lambda match: parts[match[1]], prompt)


def public_image(source: str, name: str) -> str:
    """Return the public id of the photograph: COCO's number, else its file in ADE20K or Omni3D."""
    if source == "COCO" and (found := coco_id_of_file(name)):
        return found
    return ":".join((re.sub(r"[^a-z0-9]", "", source.lower()), re.sub(r"\s", "_", name)))

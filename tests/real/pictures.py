"""Questions and statements of VSR's words about drawn pictures, as VQAv2 and VSR publish theirs.

A model with a random tower cannot see what they speak of. Their words are real.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from published_experiments import ROOT, draw_picture, write_vqa

VSR = ROOT / "resources" / "vsr_random"
# Question, type of its answer, type of the question, as VQAv2 has them.
ASKED = (
    ("Is there a {first} in the picture?", "yes/no", "is there a"),
    ("What color is the {first}?", "other", "what color is the"),
    ("What is {relation} the {second}?", "other", "what is"),
    ("Is this a photo of a {second}?", "yes/no", "is this a"),
    ("How many of these are made like a {second}?", "number", "how many"),
)
ANSWERS = {"yes/no": ("yes", "no"), "other": ("red", "blue"), "number": ("1", "2")}


def statements(split: str) -> list[dict[str, Any]]:
    """Return VSR's annotations of a split."""
    return [json.loads(line) for line in (VSR / f"{split}.jsonl").read_text().splitlines()]


def questions() -> list[tuple[str, str, str, str]]:
    """Return questions about the things that VSR's statements for development name."""
    found = []
    for number, row in enumerate(statements("dev")):
        relation = re.escape(row["relation"])
        things = re.match(rf"The (.+?) (?:(?:is|are) )?{relation} the (.+)\.$", row["caption"])
        parts = {"first": things[1], "second": things[2], "relation": row["relation"]}
        question, kind, begins = ASKED[number % len(ASKED)]
        found.append((question.format(**parts), ANSWERS[kind][number // len(ASKED) % 2], kind, begins))
    return found


def paired(split: str, count: int) -> list[dict[str, Any]]:
    """Return statements of a split that are true of one picture and false of another, first words first."""
    by_caption = defaultdict(dict)
    for row in statements(split):
        by_caption[row["caption"]].setdefault(row["label"], row)
    both = [by_caption[caption] for caption in sorted(by_caption) if len(by_caption[caption]) == 2]
    return [row for pair in both for row in pair.values()][:count]


def write_pictures(folder: Path, asked: int, told: int) -> None:
    """Write `vqa`, `vsr` and the pictures of both, unless that was done.

    Args:
        folder: made if missing.
        asked: questions of each split of VQAv2.
        told: statements of each split of VSR.
    """
    if (folder / "vsr" / "test.jsonl").is_file():
        return
    for split in ("train", "val"):
        (folder / "vqa").mkdir(parents=True, exist_ok=True)
        write_vqa(folder / "vqa", split, asked, questions())
    (folder / "vsr").mkdir(exist_ok=True)
    for first, split in enumerate(("train", "test")):
        rows = paired(split, told)
        for number, row in enumerate(rows):
            draw_picture(folder / "coco2017" / "train2017" / row["image"], told * first + number)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "vsr" / f"{split}.jsonl").write_text(lines)

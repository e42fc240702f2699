"""What a stranger brings: a language model, a LLaVA tuned from it, and a folder of photos with questions."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from tiny_models import COLOURS, SHAPES, build_tiny_lm, build_tiny_vlm, draw_tiny_image

NUMBERS = ("one", "two", "three", "four")
HEADER = ("image", "prompt", "answer", "choices", "group")


def write_photos(folder: Path, photos: int = 60, seed: int = 0) -> Path:
    """Draw photos of two to four objects, and write four questions about each to samples.csv."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(photos):
        name = f"photo {number:03}.png"
        cells = {
            cell: (rng.choice(list(COLOURS)), shape)
            for cell, shape in zip(rng.sample(range(9), rng.randrange(2, 5)), rng.sample(SHAPES, 4))
        }
        draw_tiny_image(folder / name, cells)
        rows += [(name, *question) for question in questions(cells)]
    with (folder / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder


def questions(cells: dict[int, tuple[str, str]]) -> list[tuple[str, str, str, str]]:
    """Return (prompt, answer, choices, group) of four questions about a photo."""
    (one, (colour, shape)), (other, (_, second)) = list(cells.items())[:2]
    left, above = one % 3 < other % 3, one // 3 < other // 3
    answers = {True: "yes", False: "no"}
    return [
        (f"is the {shape} left of the {second} ?", answers[left], "yes|no", "left of"),
        (f"is the {shape} above the {second} ?", answers[above], "yes|no", "above"),
        (f"what colour is the {shape} ?", colour, "|".join(COLOURS), "colour"),
        ("how many objects are there ?", NUMBERS[len(cells) - 1], "|".join(NUMBERS), "count"),
    ]


def write_checkpoints(folder: Path) -> Path:
    """Save a tiny language model in `base`, and a LLaVA in `vlm`."""
    build_tiny_lm(folder / "base", seed=0)
    build_tiny_vlm(folder / "vlm", seed=1)
    return folder

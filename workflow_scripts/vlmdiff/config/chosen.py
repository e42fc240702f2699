"""Features of the user's own, in a CSV file, such as the explorer exports."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

KEY = "ablation.chosen"
NEEDED = ("layer", "feature")


def chosen_features(
    path: str | Path, layers: Sequence[int], d_sae: int | None = None
) -> list[tuple[int, int]]:
    """Read layer and feature of each line, each feature once, in the order of the file.

    Args:
        path: CSV with the columns layer and feature; others are for people.
        layers: decoder blocks that are studied.
        d_sae: features of a dictionary; None: nobody knows yet.

    Raises:
        ValueError: naming the file, the line, what was found and what was expected.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names, rows = [name.strip() for name in reader.fieldnames or []], []
            reader.fieldnames = names
            for row in reader:
                rows.append((reader.line_num, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{KEY}: {path}: no CSV that can be read ({error}); export your stars from the explorer"
        ) from error
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(
            f"{KEY}: {path}: found the columns {', '.join(names) or 'none'}, expected {' and '.join(NEEDED)} "
            f"(missing: {', '.join(missing)})"
        )
    found = dict.fromkeys(place_of(row, f"{KEY}: {path}: line {line}", layers, d_sae) for line, row in rows)
    if not found:
        raise ValueError(
            f"{KEY}: {path}: found no features, expected a line for each; star some and export them"
        )
    return list(found)


def place_of(row: dict[str, str], where: str, layers: Sequence[int], d_sae: int | None) -> tuple[int, int]:
    """Return layer and feature of a line.

    Raises:
        ValueError: see `chosen_features`.
    """
    texts = [(row[name] or "").strip() for name in NEEDED]
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        raise ValueError(
            f"{where}: found layer '{texts[0]}' and feature '{texts[1]}', expected two whole numbers"
        )
    layer, feature = map(int, texts)
    if layer not in layers:
        raise ValueError(f"{where}: found layer {layer}, expected one of those studied, {list(layers)}")
    if d_sae is not None and feature >= d_sae:
        raise ValueError(
            f"{where}: found feature {feature}, expected one below {d_sae}, the size of a dictionary"
        )
    return layer, feature

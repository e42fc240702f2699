"""Files of scores: reading, and what is wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

# No layer has as many features; what is larger is no whole number that a float holds.
LARGEST = 2**31
TRUTH_VALUES = MappingProxyType(
    {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
)
KNOWN = ("layer", "feature", "direction", "score", "selected", "seed")


class SubmissionError(ValueError):
    """A file of scores cannot be read."""


def read_submission(path: str | Path, layers: Sequence[int], may_be_empty: bool = False) -> pd.DataFrame:
    """Read a file of scores: layer, feature or direction (an array), score, seed, and selected if it is told.

    Args:
        path: the file.
        layers: decoder blocks that are studied.
        may_be_empty: whether it may have a header alone, as in a control where nothing is found.

    Raises:
        SubmissionError: naming the file, what was found and what was expected.
    """
    try:
        # A line with more fields than the header would be read as another one.
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            table = pd.read_csv(path, dtype={"direction": str}, index_col=False, compression=None)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise SubmissionError(f"{path}: no CSV that can be read ({error})") from error
    missing = [name for name in ("layer", "score") if name not in table]
    places = [name for name in ("feature", "direction") if name in table]
    if missing or len(places) != 1 or set(table) - set(KNOWN):
        raise SubmissionError(
            f"{path}: found the columns {', '.join(map(str, table))}; expected layer, score, either feature "
            "or direction, and if they are told selected and seed"
        )
    if table.empty and not may_be_empty:
        raise SubmissionError(f"{path}: holds no scores; expected a line for each feature or direction")
    table["seed"] = table.get("seed", 0)
    for name in ("layer", "feature", "seed"):
        if name in table:
            table[name] = whole_numbers(table[name], f"{path}: {name}")
    check_numbers(table, path, layers)
    table["score"] = table["score"].astype(float)
    if "selected" in table:
        table["selected"] = truth_values(table["selected"], path)
    if "direction" in table:
        table["direction"] = list(directions(table["direction"], path))
        check_different(table, path)
    elif table.duplicated(["seed", "layer", "feature"]).any():
        layer, feature = table.loc[table.duplicated(["seed", "layer", "feature"]), ["layer", "feature"]].iloc[
            0
        ]
        raise SubmissionError(f"{path}: layer {layer}, feature {feature} has several scores, expected one")
    return table


def check_different(table: pd.DataFrame, path: str | Path) -> None:
    """Refuse a direction that a layer and seed has twice."""
    lines = list(zip(table["seed"], table["layer"], (found.tobytes() for found in table["direction"])))
    if len(set(lines)) < len(lines):
        layer = next(line[1] for number, line in enumerate(lines) if line in lines[:number])
        raise SubmissionError(f"{path}: layer {layer}: a direction has several scores, expected one")


def whole_numbers(values: pd.Series, what: str) -> pd.Series:
    """Return values as whole numbers.

    Raises:
        SubmissionError: some are none.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    if wrong := values[~(numbers.between(0, LARGEST) & (numbers % 1 == 0))].tolist():
        raise SubmissionError(f"{what}: found {wrong[0]!r}, expected whole numbers from 0 on")
    return numbers.astype("int64")


def check_numbers(table: pd.DataFrame, path: str | Path, layers: Sequence[int]) -> None:
    """Refuse layers that are not studied, and scores that are no numbers."""
    if unknown := sorted(set(table["layer"]) - set(layers)):
        raise SubmissionError(f"{path}: layer: found {unknown[0]}, expected some of {list(layers)}")
    told = table["score"]
    scores = pd.to_numeric(told, errors="coerce").astype(float)
    if (bad := ~np.isfinite(scores) | (told.dtype == bool)).any():
        raise SubmissionError(
            f"{path}: score: found {table['score'][bad].tolist()[0]!r}, expected finite numbers"
        )


def truth_values(values: pd.Series, path: str | Path) -> pd.Series:
    """Return values as truth values: 0 and 1, or their words.

    Raises:
        SubmissionError: some are none.
    """
    found = values.astype(str).str.strip().str.lower().map(TRUTH_VALUES)
    if wrong := values[found.isna()].tolist():
        raise SubmissionError(f"{path}: selected: found {wrong[0]!r}, expected 0 or 1")
    return found.astype(bool)


def check_features(table: pd.DataFrame, count: int, path: str | Path) -> None:
    """Refuse features that a dictionary of some size does not have."""
    if (largest := int(table["feature"].max())) >= count:
        raise SubmissionError(
            f"{path}: feature: found {largest}, expected 0 to {count - 1}, the features of a layer"
        )


def directions(texts: pd.Series, path: str | Path) -> Iterator[np.ndarray]:
    """Yield directions of unit length, each written as numbers with blanks between.

    Raises:
        SubmissionError: one is no direction, or of another width than the first.
    """
    width = None
    for text in texts.fillna(""):
        try:
            found = np.array([float(part) for part in text.split()], np.float32)
        except ValueError:
            raise SubmissionError(
                f"{path}: direction: found '{text[:60]}', expected numbers with blanks between"
            ) from None
        width = len(found) if width is None else width
        norm = float(np.linalg.norm(found)) if len(found) else 0.0
        if len(found) != width or not np.isfinite(norm) or norm == 0:
            expected = width or "some"
            raise SubmissionError(
                f"{path}: direction: found {len(found)} numbers of length {norm:g}, expected {expected} "
                "finite ones that are not all zero"
            )
        yield found / norm

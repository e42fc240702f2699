"""How far features turned between dictionaries of one index (docs/understand/method.md section 5)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.dictionaries.partial_reads import FeatureRows, feature_rows

Array = np.ndarray
# Largest distance between the unit vectors of two float32 rows that are one direction. Storing moves one by
# at most 2^-24, the relative error of each value; normalising it again and again by 1.8 times as much, after
# which it stays (measured at widths of 64 to 4,096). So twice 2^-24 for each of the two rows.
ROUNDING = 4 * 2.0**-24
BLOCK = 2048  # features read at once: 32 MB of each matrix at d_model 4096


class DiffError(ValueError):
    """The dictionaries cannot be compared feature by feature."""


def row_cosines(first: Array, second: Array) -> Array:
    """Cosines of the rows of two matrices of one shape (n, d), in float64; NaN where a row is 0."""
    # Copies with contiguous rows: encoder columns arrive as strided views.
    first, second = (np.ascontiguousarray(matrix, dtype=np.float64) for matrix in (first, second))
    product = np.einsum("nd,nd->n", first, second)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(product / norms, -1.0, 1.0)


def moved(first: Array, second: Array) -> Array:
    """Tell which rows of two matrices of one shape (n, d) point elsewhere, by more than rounding explains.

    A row of zeros points nowhere and has not moved. Distances of unit vectors say what cosines, in which
    small angles cancel, do not.
    """
    units = [np.ascontiguousarray(matrix, dtype=np.float64) for matrix in (first, second)]
    with np.errstate(invalid="ignore", divide="ignore"):
        units = [matrix / np.linalg.norm(matrix, axis=1, keepdims=True) for matrix in units]
    return np.linalg.norm(units[0] - units[1], axis=1) > ROUNDING


def check_shapes(layer: int, shapes: dict[str, tuple[int, int]]) -> None:
    """Refuse dictionaries of different shapes.

    Raises:
        DiffError: naming the layer and the shapes.
    """
    if len(set(shapes.values())) > 1:
        raise DiffError(
            f"layer {layer}: decoders have the shapes {shapes}; a diff needs dictionaries of one shape, "
            "the later ones started from the base one"
        )


def layer_rotation(layer: int, folders: dict[str, str | Path]) -> pd.DataFrame:
    """Return the cosines of one layer's features: base against adapted, null and, if there are, the others.

    Some features at a time: whole dictionaries of a large model take gigabytes.
    """
    with ExitStack() as stack:
        files = {name: stack.enter_context(feature_rows(folder)) for name, folder in folders.items()}
        check_shapes(layer, {name: file.shape for name, file in files.items()})
        parts = [
            block_cosines(files, start, min(start + BLOCK, files["base"].shape[0]))
            for start in range(0, files["base"].shape[0], BLOCK)
        ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(columns["cos_decoder"])
    for name in ("check", "untuned"):
        columns.setdefault(f"{name}_cos_decoder", np.full(count, np.nan))
    for name in ("calibrated", "check_calibrated"):
        columns.setdefault(name, np.zeros(count, bool))
    columns |= {"similarity": columns["cos_decoder"], "null_similarity": columns["null_cos_decoder"]}
    return pd.DataFrame({"layer": layer, "feature": np.arange(count), **columns})


def block_cosines(files: dict[str, FeatureRows], start: int, stop: int) -> dict[str, Array]:
    """Return what is known of the features from `start` to `stop`, by the name of their column."""
    columns = {}
    for part in ("decoder", "encoder"):
        before = getattr(files["base"], part)(start, stop)
        for prefix, other in (("", "adapted"), ("null_", "null")):
            found = (
                getattr(files[other], part)(start, stop) if other in files else np.full_like(before, np.nan)
            )
            columns[f"{prefix}cos_{part}"] = row_cosines(before, found)
    base = files["base"].decoder(start, stop)
    for name in ("check", "untuned"):
        if name in files:
            columns[f"{name}_cos_decoder"] = row_cosines(base, files[name].decoder(start, stop))
    for name, column in (("null", "calibrated"), ("check", "check_calibrated")):
        if name in files:
            columns[column] = moved(base, files[name].decoder(start, stop))
    return columns

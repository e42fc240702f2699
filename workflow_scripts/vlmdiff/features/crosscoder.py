"""The features of a crosscoder in its two models (docs/understand/diff_features.md)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.dictionaries.partial_reads import FeatureRows, feature_rows, halves
from vlmdiff.features.rotation import BLOCK, check_shapes, moved, row_cosines

Array = np.ndarray


def overlap(first: Array, second: Array) -> Array:
    """Return `2 a.b / (|a|^2 + |b|^2)` of the rows of two matrices, in float64; NaN where both are 0.

    1 if a feature is the same in both models; less as it turns or differs in strength; 0 if one lacks it.
    """
    first, second = (np.ascontiguousarray(matrix, dtype=np.float64) for matrix in (first, second))
    product = np.einsum("nd,nd->n", first, second)
    squares = np.einsum("nd,nd->n", first, first) + np.einsum("nd,nd->n", second, second)
    return 2 * product / np.where(squares > 0, squares, np.nan)


def relative_norm(first: Array, second: Array) -> Array:
    """Return `|b| / (|a| + |b|)` of the rows of two matrices (arXiv 2504.02922); NaN where both are 0."""
    one, two = (np.linalg.norm(matrix.astype(np.float64), axis=1) for matrix in (first, second))
    return two / np.where(one + two > 0, one + two, np.nan)


def layer_models(layer: int, folders: dict[str, str | Path]) -> pd.DataFrame:
    """Return how one layer's features differ between the models of a crosscoder, and of its null.

    Args:
        layer: decoder block.
        folders: of the crosscoder, `adapted`, and of the `null`.
    """
    with ExitStack() as stack:
        files = {name: stack.enter_context(feature_rows(folders[name])) for name in ("adapted", "null")}
        check_shapes(layer, {name: file.shape for name, file in files.items()})
        count = files["adapted"].shape[0]
        parts = [block_models(files, start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    nothing = dict.fromkeys(("check_cos_decoder", "untuned_cos_decoder"), np.nan)
    return pd.DataFrame(
        {"layer": layer, "feature": np.arange(count), **columns, **nothing, "check_calibrated": False}
    )


def block_models(files: dict[str, FeatureRows], start: int, stop: int) -> dict[str, Array]:
    """Return what is known of the features from `start` to `stop`, by the name of their column."""
    columns = {}
    for prefix, name in (("", "adapted"), ("null_", "null")):
        decoders = halves(files[name].decoder(start, stop))
        columns[f"{prefix}cos_decoder"] = row_cosines(*decoders)
        columns[f"{prefix}cos_encoder"] = row_cosines(*halves(files[name].encoder(start, stop)))
        columns[f"{prefix}similarity"] = overlap(*decoders)
        if name == "adapted":
            columns["relative_norm"] = relative_norm(*decoders)
        else:
            # Rows that are as they started, the same for both models, never fired.
            columns["null_similarity"][~moved(*decoders)] = np.nan
    # The null's features have an index of their own: none is without a reference.
    return {**columns, "calibrated": np.ones(stop - start, bool)}

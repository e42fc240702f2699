"""What fine-tuning did to each feature: rotation or drift, and energies (method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.dictionaries.partial_reads import FeatureRows, feature_rows
from vlmdiff.features.sums import text_sums, text_totals
from vlmdiff.tables.features import FEATURE_DIFF
from vlmdiff.tables.io import write_table

Array = np.ndarray
# Largest distance between the unit vectors of two float32 rows that are one direction. Storing moves one by
# at most 2^-24, the relative error of each value; normalising it again and again by 1.8 times as much, after
# which it stays (measured at widths of 64 to 4,096). So twice 2^-24 for each of the two rows.
ROUNDING = 4 * 2.0**-24
BLOCK = 2048  # features read at once: 32 MB of each matrix at d_model 4096


class DiffError(ValueError):
    """The dictionaries cannot be compared feature by feature."""


@dataclass(frozen=True)
class StatisticsFiles:
    """STATISTICS and TOTALS tables of some data sets at all layers, in any order."""

    statistics: Sequence[str | Path]
    totals: Sequence[str | Path]


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


def mean_over_tokens(features: pd.DataFrame, files: StatisticsFiles, sums: Sequence[str]) -> pd.DataFrame:
    """Return sums divided by the text tokens of the layer, 0 for features that never fired.

    Raises:
        DiffError: there are no text tokens at a layer.
    """
    index = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    totals = text_totals(files.totals)
    if empty := sorted(set(features["layer"]) - set(totals.index[totals["n_tokens"] > 0])):
        raise DiffError(
            f"layers {empty}: the statistics hold no text tokens; check diff.*_datasets in the config"
        )
    tokens = totals["n_tokens"].reindex(features["layer"]).to_numpy()
    table = text_sums(files.statistics)[list(sums)].reindex(index, fill_value=0)
    return table.reset_index(drop=True).div(tokens, axis=0)


def energy_overlap(before: pd.Series, after: pd.Series) -> pd.Series:
    """Return how much of a feature's energy two models have in common, from 0 to 1; NaN where it has none.

    Twice the smaller energy by the sum of both: 1 if nothing changed, 0 if only one of the two fires it.
    """
    both = before + after
    return 2 * np.minimum(before, after) / both.where(both > 0)


def diff_features(
    layers: Sequence[int],
    base: Sequence[str | Path],
    adapted: Sequence[str | Path],
    null: Sequence[str | Path],
    visual: StatisticsFiles,
    text: StatisticsFiles,
    seed: int,
    output: str | Path,
    check: Sequence[str | Path] = (),
    untuned: Sequence[str | Path] = (),
    before: StatisticsFiles | None = None,
    tuned_on_text: StatisticsFiles | None = None,
) -> None:
    """Write the diff of all layers.

    Args:
        layers: decoder blocks.
        base: folders of the dictionaries before fine-tuning, one a layer.
        adapted: folders of those after it, with the same index.
        null: folders of those fine-tuned on more of the same text, with the same index; none for a drift.
        visual: the adapted dictionary's statistics on data sets with images.
        text: its statistics on data sets without images.
        seed: index of the seed.
        output: path of the table FEATURE_DIFF.
        check: folders of a second null, if there is one.
        untuned: folders of the dictionaries of a model that was never tuned, if there are.
        before: drift: the base dictionary's statistics on `visual`, in the model before tuning.
        tuned_on_text: drift: the same in a model that was tuned on text alone.
    """
    stages = {"base": base, "adapted": adapted}
    further = (("null", null), ("check", check), ("untuned", untuned))
    stages |= {name: found for name, found in further if found}
    rotations = [
        layer_rotation(layer, dict(zip(stages, folders)))
        for layer, *folders in zip(layers, *stages.values(), strict=True)
    ]
    frame = pd.concat(rotations, ignore_index=True)
    on_images = mean_over_tokens(frame, visual, ["sum_squares", "fires"])
    frame["seed"] = seed
    frame["visual_energy"], frame["visual_rate"] = on_images["sum_squares"], on_images["fires"]
    if null:
        frame["similarity"], frame["null_similarity"] = frame["cos_decoder"], frame["null_cos_decoder"]
    else:
        energies = [
            mean_over_tokens(frame, one, ["sum_squares"])["sum_squares"] for one in (before, tuned_on_text)
        ]
        frame["similarity"] = energy_overlap(energies[0], frame["visual_energy"])
        frame["null_similarity"] = energy_overlap(*energies)
        frame["calibrated"] = frame["null_similarity"].notna()
    frame["text_energy"] = mean_over_tokens(frame, text, ["sum_squares"])["sum_squares"]
    write_table(frame, FEATURE_DIFF, output)

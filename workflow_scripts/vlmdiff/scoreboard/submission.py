"""Scores from a file: features of the adapted dictionary or directions of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.activations.store import ActivationStore
from vlmdiff.data.samples import load_samples
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.scoreboard.scores import quality
from vlmdiff.tables.io import read_tables, write_table
from vlmdiff.tables.scoreboard import SCORES
from vlmdiff.tables.world import GROUND_TRUTH
from vlmdiff.world.ground_truth import score_layer
from vlmdiff.world.sample_labels import all_labels

OWN = "own"
KNOWN = ("layer", "feature", "direction", "score", "selected", "seed")


class SubmissionError(ValueError):
    """A file of scores cannot be read."""


def read_submission(path: str | Path, layers: Sequence[int]) -> pd.DataFrame:
    """Read a file of scores: layer, feature or direction (an array), score, seed, and selected if it is told.

    Raises:
        SubmissionError: naming the file, what was found and what was expected.
    """
    try:
        table = pd.read_csv(path, dtype={"direction": str})
    except (OSError, ValueError) as error:
        raise SubmissionError(f"{path}: no CSV that can be read ({error})") from error
    missing = [name for name in ("layer", "score") if name not in table]
    places = [name for name in ("feature", "direction") if name in table]
    if missing or len(places) != 1 or set(table) - set(KNOWN):
        raise SubmissionError(
            f"{path}: found the columns {', '.join(map(str, table))}; expected layer, score, either feature or "
            "direction, and if they are told selected and seed"
        )
    if table.empty:
        raise SubmissionError(f"{path}: holds no scores; expected a line for each feature or direction")
    table["seed"] = table["seed"] if "seed" in table else 0
    for name in ("layer", "feature", "seed"):
        if name in table:
            table[name] = whole_numbers(table[name], f"{path}: {name}")
    check_numbers(table, path, layers)
    if "selected" in table:
        table["selected"] = table["selected"].astype(bool)
    if "direction" in table:
        table["direction"] = list(directions(table["direction"], path))
    elif table.duplicated(["seed", "layer", "feature"]).any():
        first = table[table.duplicated(["seed", "layer", "feature"])].iloc[0]
        raise SubmissionError(
            f"{path}: layer {first['layer']}, feature {first['feature']} has more than one score; expected one"
        )
    return table


def whole_numbers(values: pd.Series, what: str) -> pd.Series:
    """Return values as whole numbers.

    Raises:
        SubmissionError: some are none.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    if wrong := values[numbers.isna() | (numbers % 1 != 0) | (numbers < 0)].tolist():
        raise SubmissionError(f"{what}: found {wrong[0]!r}, expected whole numbers from 0 on")
    return numbers.astype("int64")


def check_numbers(table: pd.DataFrame, path: str | Path, layers: Sequence[int]) -> None:
    """Refuse layers that are not studied, scores that are no numbers, and selections that are not 0 or 1."""
    if unknown := sorted(set(table["layer"]) - set(layers)):
        raise SubmissionError(f"{path}: layer: found {unknown[0]}, expected some of {list(layers)}")
    scores = pd.to_numeric(table["score"], errors="coerce")
    if (bad := ~np.isfinite(scores)).any():
        raise SubmissionError(f"{path}: score: found {table['score'][bad].iloc[0]!r}, expected finite numbers")
    if "selected" in table and (bad := ~table["selected"].isin([0, 1])).any():
        raise SubmissionError(f"{path}: selected: found {table['selected'][bad].iloc[0]!r}, expected 0 or 1")


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
            raise SubmissionError(
                f"{path}: direction: found {len(found)} numbers of length {norm:g}, expected {width or 'some'} "
                "finite ones that are not all zero"
            )
        yield found / norm


def projections(shards: Sequence[str | Path], layer: int, units: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return each sample's largest projection of a text token on directions, and the names of the samples.

    Args:
        shards: activation shards of a data set.
        layer: decoder block.
        units: (directions, d_model) of unit length.

    Raises:
        SubmissionError: directions of another width than the model.
    """
    store = ActivationStore(shards, layer)
    if units.shape[1] != store.d_model:
        raise SubmissionError(
            f"direction: found {units.shape[1]} numbers, expected {store.d_model}, the width of the model"
        )
    found = np.full((store.n_samples, len(units)), -np.inf, np.float32)
    for chunk in store.chunks(["text"]):
        np.maximum.at(found, chunk.sample.numpy(), chunk.values.numpy() @ units.T)
    return found, store.sample_ids


def truth_of_directions(
    table: pd.DataFrame,
    sample_files: Mapping[str, str | Path],
    shards: Mapping[str, Mapping[int, Sequence[str | Path]]],
    job_seed: int,
) -> pd.DataFrame:
    """Score directions as features are (`score_ground_truth`), by projections in the place of activations.

    Args:
        table: layer and direction; `feature` is their number within the layer.
        sample_files: samples.jsonl of each data set.
        shards: activations of each data set by layer.
        job_seed: seed of the shuffles.

    Returns:
        GROUND_TRUTH in part: layer, feature, spatial, spatial_match.
    """
    samples = [sample for file in sample_files.values() for sample in load_samples(Path(file))]
    datasets = np.array([name for name, file in sample_files.items() for _ in load_samples(Path(file))])
    labels, frames = all_labels(samples), []
    for layer, part in table.groupby("layer"):
        units = np.stack(part["direction"])
        parts = [projections(shards[name][layer], layer, units) for name in sample_files]
        place = {name: row for row, name in enumerate(one for _, names in parts for one in names)}
        values = np.concatenate([found for found, _ in parts])[[place[one.sample_id] for one in samples]]
        # From the smallest on, so that every direction is live.
        values = values - values.min(0) + 1.0
        frame, _ = score_layer(values, labels, datasets, derive_seed(job_seed, int(layer)))
        frames.append(frame.assign(layer=layer))
    return pd.concat(frames, ignore_index=True)[["layer", "feature", "spatial", "spatial_match"]]


def score_submission(
    file: str | Path,
    truths: Sequence[str | Path],
    sample_files: Mapping[str, str | Path],
    shards: Mapping[str, Mapping[int, Sequence[str | Path]]],
    output: str | Path,
    job_seed: int,
) -> None:
    """Write how good a file of scores is, one row a seed (contract SCORES).

    Directions are held against one another alone: nobody knows all directions that there are.

    Args:
        file: the scores.
        truths: GROUND_TRUTH of the adapted dictionary, of every seed.
        sample_files, shards, job_seed: see `truth_of_directions`.
        output: path of the table.

    Raises:
        SubmissionError: the file cannot be read, or names what is not there.
    """
    layers, rows = list(next(iter(shards.values()))), []
    known = read_tables(truths, GROUND_TRUTH)
    for seed, part in read_submission(file, layers).groupby("seed"):
        if "direction" in part:
            part = part.assign(feature=part.groupby("layer").cumcount()).reset_index(drop=True)
            truth = truth_of_directions(part, sample_files, shards, job_seed)
        else:
            truth = known[known["seed"] == seed]
            check_features(part, truth, file, int(seed))
        columns = [name for name in ("layer", "feature", "score", "selected") if name in part]
        rows.append({"rule": OWN, "seed": seed} | quality(truth, part[columns]))
    write_table(pd.DataFrame(rows), SCORES, output)


def check_features(part: pd.DataFrame, truth: pd.DataFrame, file: str | Path, seed: int) -> None:
    """Refuse seeds and features that the adapted dictionary does not have."""
    if truth.empty:
        raise SubmissionError(f"{file}: seed: found {seed}, of which there is no dictionary; lower it")
    count = int(truth["feature"].max()) + 1
    if (largest := int(part["feature"].max())) >= count:
        raise SubmissionError(
            f"{file}: feature: found {largest}, expected 0 to {count - 1}, the features of a layer"
        )

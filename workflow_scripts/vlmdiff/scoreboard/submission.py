"""Scores from a file, held against the scene graphs: features of the adapted dictionary, or directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.activations.store import ActivationStore
from vlmdiff.data.samples import load_samples
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.scoreboard.scores import OWN, quality
from vlmdiff.scoreboard.submitted import SubmissionError, check_features, read_submission
from vlmdiff.tables.io import read_tables, write_table
from vlmdiff.tables.scoreboard import METHOD_SCORES
from vlmdiff.tables.world import GROUND_TRUTH
from vlmdiff.world.ground_truth import score_layer
from vlmdiff.world.sample_labels import SPATIAL, all_labels


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
    chance: Mapping[int, float],
) -> pd.DataFrame:
    """Score directions as features are (`score_ground_truth`), by projections in the place of activations.

    Args:
        table: layer and direction; `feature` is their number within the layer.
        sample_files: samples.jsonl of each data set.
        shards: activations of each data set by layer.
        job_seed: seed of the shuffles.
        chance: by layer what a match must beat: that of the dictionary, whatever else is submitted.

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
        matches = (frame["auroc"] - 0.5).abs() > chance[layer]
        frame["spatial"] = matches & frame["category"].isin(SPATIAL)
        frame["spatial_match"] = (frame["spatial_auroc"] - 0.5).abs() > chance[layer]
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
    """Write how good a file of scores is, one row a seed (contract METHOD_SCORES).

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
        dictionary = known[known["seed"] == seed]
        check_seed(dictionary, file, int(seed))
        if "direction" in part:
            chance = dictionary.groupby("layer")["chance"].first().to_dict()
            part = part.assign(feature=part.groupby("layer").cumcount()).reset_index(drop=True)
            truth = truth_of_directions(part, sample_files, shards, job_seed, chance)
        else:
            truth = dictionary
            check_features(part, int(truth["feature"].max()) + 1, file)
        columns = [name for name in ("layer", "feature", "score", "selected") if name in part]
        rows.append({"rule": OWN, "seed": seed} | quality(truth, part[columns]))
    write_table(pd.DataFrame(rows), METHOD_SCORES, output)


def check_seed(dictionary: pd.DataFrame, file: str | Path, seed: int) -> None:
    """Refuse a seed of which there is no dictionary."""
    if dictionary.empty:
        raise SubmissionError(f"{file}: seed: found {seed}, of which there is no dictionary; lower it")

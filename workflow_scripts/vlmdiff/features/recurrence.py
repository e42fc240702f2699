"""Do findings recur? Features of dictionaries that were trained with other seeds, matched by decoder rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.dictionaries.parts import feature_rows
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.features.candidates import FEATURE
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES, RECURRENCE
from vlmdiff.tables.io import read_table, write_table

Array = np.ndarray
BLOCK = 2048  # rows multiplied at once


@dataclass(frozen=True)
class SeedFiles:
    """What is read of one seed.

    Attributes:
        dictionaries: folder of the adapted dictionary at each layer.
        adapted: table ADAPTED.
        final: table FINAL_FEATURES.
    """

    dictionaries: Mapping[int, str | Path]
    adapted: str | Path
    final: str | Path


def unit_rows(folder: str | Path) -> Array:
    """Return the decoder rows of a dictionary at unit norm, float32 (d_sae, d_model)."""
    with feature_rows(folder) as file:
        rows = np.array(file.decoder(0, file.shape[0]), dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def nearest(rows: Array, others: Array) -> tuple[Array, Array]:
    """Return for each of `rows` the index of the most similar of `others`, and their cosine.

    Args:
        rows: (n, d_model) of unit norm.
        others: (m, d_model) of unit norm.

    Raises:
        DictionaryError: the widths differ.
    """
    if rows.shape[1] != others.shape[1]:
        raise DictionaryError(
            f"found dictionaries of {rows.shape[1]} and {others.shape[1]} dimensions, expected one width; "
            "compare dictionaries of one model"
        )
    index, cosine = np.empty(len(rows), np.int64), np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK] @ others.T
        index[start : start + BLOCK] = part.argmax(1)
        cosine[start : start + BLOCK] = part.max(1)
    return index, cosine


def control_features(adapted: pd.DataFrame, final: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw as many live features that are not final, layer by layer: layer, feature."""
    live = adapted.loc[adapted["visual_rate"] > 0, FEATURE]
    taken = pd.MultiIndex.from_frame(final[FEATURE])
    live = live[~pd.MultiIndex.from_frame(live).isin(taken)]
    counts = final["layer"].value_counts()
    parts = [
        part.sample(
            min(int(counts.get(layer, 0)), len(part)), random_state=derive_seed(seed, "control", layer)
        )
        for layer, part in live.groupby("layer")
    ]
    return pd.concat(parts, ignore_index=True) if parts else live


def match_layer(chosen: pd.DataFrame, mine: Array, theirs: Array, theirs_final: Array) -> pd.DataFrame:
    """Match some features of one layer with all features of another seed's dictionary."""
    index, cosine = nearest(mine[chosen["feature"]], theirs)
    back, _ = nearest(theirs[index], mine)
    return chosen.assign(
        match=index,
        cosine=cosine,
        mutual=back == chosen["feature"].to_numpy(),
        match_final=np.isin(index, theirs_final),
    )


def match_pair(chosen: pd.DataFrame, mine: SeedFiles, theirs: SeedFiles) -> Iterator[pd.DataFrame]:
    """Yield the matches of one seed's features in another seed, one frame a layer."""
    final = read_table(theirs.final, FINAL_FEATURES, FEATURE)
    for layer, part in chosen.groupby("layer"):
        yield match_layer(
            part,
            unit_rows(mine.dictionaries[layer]),
            unit_rows(theirs.dictionaries[layer]),
            final.loc[final["layer"] == layer, "feature"].to_numpy(),
        )


def match_seeds(concept: str, seeds: Sequence[SeedFiles], output: str | Path) -> None:
    """Look for the final features of every seed in all other seeds, and write the table RECURRENCE.

    Dictionaries of different seeds start from different random weights: an index means nothing
    across them, a direction does. The control says how often any live feature meets a final one.

    Args:
        concept: its name.
        seeds: files of each seed, in order.
        output: path of the table.
    """
    frames = []
    for seed, mine in enumerate(seeds):
        final = read_table(mine.final, FINAL_FEATURES, FEATURE)
        control = control_features(read_table(mine.adapted, ADAPTED, [*FEATURE, "visual_rate"]), final, seed)
        chosen = pd.concat([final.assign(arm="final"), control.assign(arm="control")], ignore_index=True)
        for other, theirs in enumerate(seeds):
            if other != seed:
                frames += [
                    part.assign(other_seed=other, seed=seed) for part in match_pair(chosen, mine, theirs)
                ]
    names = [name for name in RECURRENCE.names if name not in ("concept", "name")]
    table = pd.concat(frames, ignore_index=True) if frames else RECURRENCE.empty_table().to_pandas()[names]
    table["name"] = "L" + table["layer"].astype(str) + "F" + table["feature"].astype(str)
    write_table(table.assign(concept=concept), RECURRENCE, output)

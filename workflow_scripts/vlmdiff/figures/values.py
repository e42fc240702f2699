"""What figures and the summary share: reading tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa

from vlmdiff.tables.io import read_tables


def of_models(accuracy: pd.DataFrame, checkpoints: Mapping[str, str]) -> pd.DataFrame:
    """Return the accuracies of the config's models, under the names that the config gives them.

    Args:
        accuracy: ACCURACY, whose models are checkpoints of the built-in world.
        checkpoints: the checkpoint of each model of the config that has one. A model of the same name as
            a checkpoint may be another one.
    """
    names = pd.DataFrame({"model": checkpoints.values(), "name": checkpoints.keys()}, dtype=object)
    found = accuracy.merge(names, on="model", how="inner")
    return found.assign(model=found["name"])[accuracy.columns]


def with_asked(accuracy: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Return all accuracies, those of the model under study on its test sets in the place of the world's.

    Args:
        accuracy: ACCURACY of the world's checkpoints, under the names of the config.
        asked: ACCURACY of the model under study.
    """
    known = pd.MultiIndex.from_frame(asked[["model", "dataset"]])
    others = accuracy[~pd.MultiIndex.from_frame(accuracy[["model", "dataset"]]).isin(known)]
    return pd.concat([asked, others], ignore_index=True) if len(others) else asked


def sets_of_size(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """Return the rows of a selection rule that stand for a size: random subsets, or all that it gives.

    Args:
        rows: SELECTION of one rule; of several seeds some may give more features than others.
        size: how many features were asked for.
    """
    few = rows["available"] <= size
    whole = few & rows["draw"].eq(0) & rows["size"].eq(rows["available"])
    return rows[whole | (~few & rows["draw"].gt(0) & rows["size"].eq(size))]


def read_some(paths: Iterable[str | Path], schema: pa.Schema) -> pd.DataFrame:
    """Read tables of one contract, one below the other; an empty table if there are no files."""
    files = list(paths)
    return read_tables(files, schema) if files else schema.empty_table().to_pandas()

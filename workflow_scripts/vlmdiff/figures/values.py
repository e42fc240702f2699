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


def read_some(paths: Iterable[str | Path], schema: pa.Schema) -> pd.DataFrame:
    """Read tables of one contract, one below the other; an empty table if there are no files."""
    files = list(paths)
    return read_tables(files, schema) if files else schema.empty_table().to_pandas()

"""What figures and the summary share: reading and ranking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmdiff.tables.io import read_tables


def spearman(first: pd.Series, second: pd.Series) -> float:
    """Return Spearman's rank correlation, ties by mean rank; NaN for fewer than three pairs or no spread."""
    pairs = pd.DataFrame({"first": np.asarray(first), "second": np.asarray(second)}).dropna().rank()
    if len(pairs) < 3 or (pairs.nunique() < 2).any():
        return float("nan")
    return float(np.corrcoef(pairs["first"], pairs["second"])[0, 1])


def read_some(paths: Iterable[str | Path], schema: pa.Schema) -> pd.DataFrame:
    """Read tables of one contract, one below the other; an empty table if there are no files."""
    files = list(paths)
    return read_tables(files, schema) if files else schema.empty_table().to_pandas()

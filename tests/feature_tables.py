"""Small feature tables for tests, with defaults for every column that a test does not care about."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from vlmdiff.tables.features import ADAPTED, CONTRAST, LEXICAL, STATISTICS, TOP_SAMPLES, TOTALS
from vlmdiff.tables.io import write_table

DEFAULTS = {"int64": 0, "double": 0.0, "bool": False, "string": "text"}


def table(schema: pa.Schema, rows: list[dict]) -> pd.DataFrame:
    """Return a frame of the contract; absent keys are 0, False or 'text'."""
    empty = {field.name: DEFAULTS[str(field.type)] for field in schema}
    return pd.DataFrame([{**empty, **row} for row in rows], columns=schema.names)


def write(path: Path, schema: pa.Schema, rows: list[dict]) -> Path:
    """Write a table of the contract."""
    write_table(table(schema, rows) if rows else schema.empty_table().to_pandas(), schema, path)
    return path


def write_statistics(folder: Path, rows: list[dict], totals: list[dict]) -> tuple[Path, Path]:
    """Write STATISTICS and TOTALS."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        write(folder / "statistics.parquet", STATISTICS, rows),
        write(folder / "totals.parquet", TOTALS, totals),
    )


def write_top_samples(path: Path, rows: list[dict]) -> Path:
    """Write TOP_SAMPLES."""
    return write(path, TOP_SAMPLES, rows)


def write_decisions(
    folder: Path, adapted: list[dict], contrast: list[dict], lexical: list[dict]
) -> list[Path]:
    """Write ADAPTED, CONTRAST and LEXICAL."""
    pairs = (("adapted", ADAPTED, adapted), ("contrast", CONTRAST, contrast), ("lexical", LEXICAL, lexical))
    return [write(folder / f"{name}.parquet", schema, rows) for name, schema, rows in pairs]


def effects(**values) -> dict:
    """A row with the columns of EFFECT: accuracy changes by `at`, margin ten times as much; ends differ."""
    at = values.pop("at")
    row = {"group": "all", "n": 100, "clusters": 31, "accuracy_clean": 0.9, "accuracy": 0.9 + at}
    row |= {"delta_accuracy": at, "delta_low": at - 0.01, "delta_high": at + 0.02, "delta_margin": 10 * at}
    return row | {"margin_low": 10 * at - 0.1, "margin_high": 10 * at + 0.2} | values

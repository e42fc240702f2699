"""Read and write tables by their contract: Parquet or CSV, chosen by the file name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from vlmdiff.runtime.files import replacing


class TableError(ValueError):
    """A table does not keep its contract."""


def conform(frame: pd.DataFrame, schema: pa.Schema, origin: str) -> pa.Table:
    """Cast a frame to its contract, columns in the contract's order.

    Raises:
        TableError: a column is missing, unknown or of another type; the message names `origin`.
    """
    missing = [name for name in schema.names if name not in frame.columns]
    unknown = [name for name in frame.columns if name not in schema.names]
    if missing or unknown:
        raise TableError(
            f"{origin}: columns do not match; missing {missing}, unknown {unknown}. Remake the table."
        )
    try:
        return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError(f"{origin}: a column has the wrong type: {error}") from error


def write_table(frame: pd.DataFrame, schema: pa.Schema, path: str | Path) -> None:
    """Write a frame that keeps `schema` to a `.parquet` or `.csv` file, whole or not at all."""
    table = conform(frame, schema, str(path))
    with replacing(path) as temporary:
        if Path(path).suffix == ".csv":
            table.to_pandas().to_csv(temporary, index=False)
        else:
            pq.write_table(table, temporary, compression="zstd")


def read_table(path: str | Path, schema: pa.Schema, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table and check it against its contract.

    Args:
        path: a `.parquet` or `.csv` file.
        schema: the contract.
        columns: only these columns, to save memory.

    Raises:
        TableError: the file does not keep the contract.
    """
    if Path(path).suffix == ".csv":
        options = pyarrow.csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=False, quoted_strings_can_be_null=False
        )
        table = pyarrow.csv.read_csv(path, convert_options=options)
    else:
        table = pq.read_table(path)
    frame = conform(table.to_pandas(), schema, str(path)).to_pandas()
    return frame if columns is None else frame[columns]


def read_tables(paths: Iterable[str | Path], schema: pa.Schema) -> pd.DataFrame:
    """Read several tables of one contract, one below the other."""
    return pd.concat([read_table(path, schema) for path in paths], ignore_index=True)

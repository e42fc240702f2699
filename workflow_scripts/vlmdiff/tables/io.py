"""Read and write tables by their contract: Parquet or CSV, chosen by the file name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from vlmdiff.runtime.files import replacing


class TableError(ValueError):
    """A table does not keep its contract."""


def check_names(found: Iterable[str], schema: pa.Schema, origin: str) -> None:
    """Refuse a table whose columns are not those of its contract.

    Raises:
        TableError: a column is missing or unknown; the message names `origin`.
    """
    found = list(found)
    missing = [name for name in schema.names if name not in found]
    unknown = [name for name in found if name not in schema.names]
    if missing or unknown:
        raise TableError(
            f"{origin}: columns do not match; missing {missing}, unknown {unknown}. Remake the table."
        )


def conform(frame: pd.DataFrame, schema: pa.Schema, origin: str) -> pa.Table:
    """Cast a frame to its contract, columns in the contract's order.

    Raises:
        TableError: a column is missing, unknown or of another type; the message names `origin`.
    """
    check_names(frame.columns, schema, origin)
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


def read_table(
    path: str | Path,
    schema: pa.Schema,
    columns: list[str] | None = None,
    rows: pc.Expression | None = None,
) -> pd.DataFrame:
    """Read a table and check it against its contract.

    Args:
        path: a `.parquet` or `.csv` file.
        schema: the contract.
        columns: only these columns; the others are not read from a `.parquet` file.
        rows: only the rows for which it is true; a table of statistics has millions.

    Raises:
        TableError: the file does not keep the contract.
    """
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    if Path(path).suffix == ".csv":
        options = pyarrow.csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=False, quoted_strings_can_be_null=False
        )
        table = pyarrow.csv.read_csv(path, convert_options=options)
        check_names(table.column_names, schema, str(path))
        table = (table if rows is None else table.filter(rows)).select(wanted.names)
    else:
        check_names(pq.read_schema(path).names, schema, str(path))
        table = pq.read_table(path, columns=wanted.names, filters=rows)
    return conform(table.to_pandas(), wanted, str(path)).to_pandas()


def read_tables(
    paths: Iterable[str | Path],
    schema: pa.Schema,
    columns: list[str] | None = None,
    rows: pc.Expression | None = None,
) -> pd.DataFrame:
    """Read several tables of one contract, or some of their columns and rows, one below the other."""
    return pd.concat([read_table(path, schema, columns, rows) for path in paths], ignore_index=True)

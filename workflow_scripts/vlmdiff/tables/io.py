"""Read and write tables by their contract: Parquet or CSV, chosen by the file name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import replacing

# What Arrow raises for a file that is damaged or of another kind.
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError)
REMEDY = "delete the file and run snakemake again, which remakes it"


class TableError(ValueError):
    """A table does not keep its contract, or its file is damaged."""


def check_names(found: Iterable[str], schema: pa.Schema, origin: str) -> None:
    """Refuse a table whose columns are not those of its contract.

    Raises:
        TableError: a column is missing or unknown; the message names `origin`.
    """
    found = list(found)
    if len(set(found)) < len(found):
        raise TableError(f"{origin}: columns are named twice, found {found}; {REMEDY}")
    missing = [name for name in schema.names if name not in found]
    unknown = [name for name in found if name not in schema.names]
    if missing or unknown:
        raise TableError(
            f"{origin}: columns do not match; missing {missing}, unknown {unknown}. Remake the table."
        )


def check_types(found: pa.Schema, expected: pa.Schema, origin: str) -> None:
    """Refuse a table whose columns have other types than those of its contract.

    Raises:
        TableError: naming the columns with both types.
    """
    wrong = [
        f"{field.name} is {found.field(field.name).type}, expected {field.type}"
        for field in expected
        if found.field(field.name).type != field.type
    ]
    if wrong:
        raise TableError(f"{origin}: {'; '.join(wrong)}; {REMEDY}")


def check_values(table: pa.Table, origin: str) -> None:
    """Refuse gaps in columns of texts, whole numbers and truth values; of other numbers a gap is NaN.

    Raises:
        TableError: naming the columns.
    """
    gaps = [
        field.name
        for field in table.schema
        if not pa.types.is_floating(field.type) and table[field.name].null_count
    ]
    if gaps:
        raise TableError(
            f"{origin}: values are missing in columns {gaps}, expected one in every row; {REMEDY}"
        )


def conform(frame: pd.DataFrame, schema: pa.Schema, origin: str) -> pa.Table:
    """Cast a frame to its contract, columns in the contract's order.

    Raises:
        TableError: a column is missing, unknown or of another type, or lacks values; the message names
            `origin`.
    """
    check_names(frame.columns, schema, origin)
    try:
        table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise TableError(f"{origin}: a column has the wrong type: {error}") from error
    check_values(table, origin)
    return table


def write_table(frame: pd.DataFrame, schema: pa.Schema, path: str | Path) -> None:
    """Write a frame that keeps `schema` to a `.parquet` or `.csv` file, whole or not at all."""
    table = conform(frame, schema, str(path))
    with replacing(path) as temporary:
        if Path(path).suffix == ".csv":
            table.to_pandas().to_csv(temporary, index=False, lineterminator=line_end(table))
        else:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def line_end(table: pa.Table) -> str:
    """Return what ends a line of CSV: writers quote no other ends, and texts may hold a carriage return."""
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    return "\r\n" if any(pc.any(pc.match_substring(column, "\r")).as_py() for column in texts) else "\n"


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
        TableError: the file is missing or damaged, or does not keep the contract.
    """
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    try:
        read = read_csv if Path(path).suffix == ".csv" else read_parquet
        table = read(path, schema, wanted.names, rows)
        return conform(table.to_pandas(), wanted, str(path)).to_pandas()
    except TableError:
        raise
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; run snakemake, which makes it") from None
    except UNREADABLE as error:
        damaged = TableError(f"{path}: cannot be read as a table ({error}); {REMEDY}")
        raise not_read(path, error) or damaged from error


def read_csv(path: str | Path, schema: pa.Schema, columns: list[str], rows: pc.Expression | None) -> pa.Table:
    """Read columns and rows of a CSV file whose columns are those of a contract."""
    table = pyarrow.csv.read_csv(
        path,
        # Texts of data sets may hold line breaks.
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=False, quoted_strings_can_be_null=False
        ),
    )
    check_names(table.column_names, schema, str(path))
    return (table if rows is None else table.filter(rows)).select(columns)


def read_parquet(
    path: str | Path, schema: pa.Schema, columns: list[str], rows: pc.Expression | None
) -> pa.Table:
    """Read columns and rows of a Parquet file whose columns are those of a contract, checksums compared."""
    found = pq.read_schema(path)
    check_names(found.names, schema, str(path))
    check_types(found, schema, str(path))
    return pq.read_table(path, columns=columns, filters=rows, page_checksum_verification=True)


def read_tables(
    paths: Iterable[str | Path],
    schema: pa.Schema,
    columns: list[str] | None = None,
    rows: pc.Expression | None = None,
) -> pd.DataFrame:
    """Read several tables of one contract, or some of their columns and rows, one below the other."""
    return pd.concat([read_table(path, schema, columns, rows) for path in paths], ignore_index=True)

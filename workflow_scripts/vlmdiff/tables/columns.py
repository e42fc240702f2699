"""Build contracts from (name, type, meaning) rows; the meaning travels in the Parquet file."""

from __future__ import annotations

import pyarrow as pa

TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}


def contract(title: str, *columns: tuple[str, str, str]) -> pa.Schema:
    """Return a schema whose fields carry their meaning and which carries its title.

    Args:
        title: one sentence: what one row is.
        columns: name, type (str, int, float, bool) and meaning of each column.
    """
    fields = [pa.field(name, TYPES[kind], metadata={"meaning": meaning}) for name, kind, meaning in columns]
    return pa.schema(fields, metadata={"title": title})

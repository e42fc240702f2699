"""Damaged tables: refused with file and remedy; what is written comes back as it was."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damaged_bytes, nothing_left, outcome, refused, tries
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.tables.columns import contract
from vlmdiff.tables.io import read_table, write_table

SCHEMA = contract(
    "One row is one row.",
    ("layer", "int", "decoder block"),
    ("group", "str", "relation"),
    ("effect", "float", "NaN without one"),
    ("kept", "bool", "whether it is kept"),
)
ROWS = 40
FRAME = pd.DataFrame(
    {
        "layer": range(ROWS),
        "group": [("left of", "a, b", 'says "no"')[i % 3] for i in range(ROWS)],
        "effect": [None if i == 7 else i / 7 for i in range(ROWS)],
        "kept": [i % 2 == 0 for i in range(ROWS)],
    }
)
SUFFIXES = ("parquet", "csv")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)


def table(folder, suffix, frame=FRAME):
    path = folder / f"table.{suffix}"
    write_table(frame, SCHEMA, path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@tries(150)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_a_table_of_the_contract(tmp_path, suffix, data):
    path = table(tmp_path, suffix)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    found, message = outcome(lambda: read_table(path, SCHEMA), path)
    if message is None:
        assert list(found.columns) == SCHEMA.names
        assert suffix == "csv" or found.equals(read_table(table(tmp_path, suffix), SCHEMA))


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_parquet_table_is_refused(tmp_path, share):
    path = table(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "run snakemake again" in refused(lambda: read_table(path, SCHEMA), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 500, b"not a table", b"PAR1PAR1", b"layer,group,effect,kept"]
)
def test_something_else_than_a_table_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"table.{suffix}"
    path.write_bytes(content)
    found, message = outcome(lambda: read_table(path, SCHEMA), path)
    assert message is not None or len(found) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("column", SCHEMA.names)
def test_a_lost_renamed_or_doubled_column_is_refused(tmp_path, suffix, column):
    path = tmp_path / f"table.{suffix}"
    for frame in (FRAME.drop(columns=column), FRAME.rename(columns={column: "other"}), FRAME.assign(more=1)):
        frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
        assert "columns" in refused(lambda: read_table(path, SCHEMA), path)
    text = FRAME.to_csv(index=False).splitlines()
    (tmp_path / "table.csv").write_text("\n".join(f"{line},{line.split(',')[0]}" for line in text))
    refused(lambda: read_table(tmp_path / "table.csv", SCHEMA), tmp_path / "table.csv")


WRONG = {
    "layer": ["x", 1.5, "", None, True, 2**70],
    "effect": ["x", True, "1e", [1]],
    "kept": ["maybe", 3, "", None],
    "group": [3.5, None, [1]],
}


# All of a CSV file is text, and Parquet has no whole number of more than 64 bits.
CASES = [
    (suffix, column, value)
    for suffix in SUFFIXES
    for column, values in WRONG.items()
    for value in values
    if not (suffix == "csv" and (column == "group" or value is True))
    and not (suffix == "parquet" and value == 2**70)
]


@pytest.mark.parametrize(("suffix", "column", "value"), CASES)
def test_values_of_another_type_are_refused(tmp_path, suffix, column, value):
    path = tmp_path / f"table.{suffix}"
    columns = {name: list(FRAME[name]) for name in FRAME}
    columns[column] = [value] * ROWS
    if suffix == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        pd.DataFrame(columns).to_csv(path, index=False)
    message = refused(lambda: read_table(path, SCHEMA), path)
    assert column in message or f"column #{SCHEMA.names.index(column)}" in message


@pytest.mark.parametrize("column", ["layer", "group", "kept"])
def test_a_gap_is_refused_when_it_is_written_and_when_it_is_read(tmp_path, column):
    frame = FRAME.astype(object)
    frame.loc[3, column] = None
    with nothing_left(tmp_path):
        assert column in refused(lambda: write_table(frame, SCHEMA, tmp_path / "t.parquet"), tmp_path)
    whole = pa.Table.from_pandas(FRAME, schema=SCHEMA)
    index = SCHEMA.names.index(column)
    holed = pa.array([None, *whole[column].to_pylist()[1:]], SCHEMA.field(column).type)
    pq.write_table(whole.set_column(index, SCHEMA.field(column), holed), tmp_path / "r.parquet")
    assert column in refused(lambda: read_table(tmp_path / "r.parquet", SCHEMA), tmp_path / "r.parquet")


def test_a_missing_table_is_named(tmp_path):
    for suffix in SUFFIXES:
        assert "no such file" in refused(lambda s=suffix: read_table(tmp_path / f"t.{s}", SCHEMA), tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@tries(80)
@given(groups=st.lists(TEXTS, min_size=1, max_size=5))
def test_any_text_comes_back_as_it_was(tmp_path, suffix, groups):
    frame = pd.DataFrame({"layer": 0, "group": groups, "effect": 0.5, "kept": True})
    assert list(read_table(table(tmp_path, suffix, frame), SCHEMA)["group"]) == groups


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbers_that_are_not_finite_come_back_as_they_were(tmp_path, suffix):
    frame = FRAME.head(4).assign(effect=[np.nan, np.inf, -np.inf, 1e-300])
    assert json.dumps(list(read_table(table(tmp_path, suffix, frame), SCHEMA)["effect"])) == json.dumps(
        list(frame["effect"])
    )

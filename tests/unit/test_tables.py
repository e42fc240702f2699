"""Tables keep their contracts on the way to disk and back."""

import numpy as np
import pandas as pd
import pytest

from vlmdiff.tables.columns import contract
from vlmdiff.tables.io import TableError, read_table, read_tables, write_table

SCHEMA = contract(
    "A test row.", ("name", "str", "a name"), ("n", "int", "a count"), ("x", "float", "a value")
)
FRAME = pd.DataFrame({"name": ["left of", "a, b", ""], "n": [1, 2, 3], "x": [0.1, np.inf, -np.inf]})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_round_trip_is_exact(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(FRAME, SCHEMA, path)
    pd.testing.assert_frame_equal(read_table(path, SCHEMA), FRAME, check_dtype=False)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_empty_tables_keep_their_columns(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(FRAME.iloc[:0], SCHEMA, path)
    assert list(read_table(path, SCHEMA).columns) == SCHEMA.names
    assert len(read_tables([path, path], SCHEMA)) == 0


def test_column_order_is_the_contracts(tmp_path):
    write_table(FRAME[["x", "n", "name"]], SCHEMA, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "name,n,x"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAME.drop(columns="n"), "missing \\['n'\\]"),
        (FRAME.assign(extra=1), "unknown \\['extra'\\]"),
        (FRAME.assign(n="many"), "wrong type"),
    ],
)
def test_broken_contract_is_refused_and_nothing_written(tmp_path, frame, words):
    with pytest.raises(TableError, match=words):
        write_table(frame, SCHEMA, tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())

"""Features matched across dictionaries: recurrence over seeds, and the corners of the stage grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from feature_tables import write
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.features.diff import DiffError
from vlmdiff.features.grid import compare_stages
from vlmdiff.features.recurrence import SeedFiles, match_seeds, nearest
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES, RECURRENCE, STAGE_GRID
from vlmdiff.tables.io import read_table

D_MODEL, D_SAE = 16, 12


def saved(folder: Path, rows: np.ndarray) -> Path:
    dictionary = TopKDictionary(rows.shape[1], rows.shape[0], k=2)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.from_numpy(rows))
        dictionary.W_enc.copy_(torch.from_numpy(rows.T.copy()))
    save_dictionary(dictionary, folder, {})
    return folder


def random_rows(seed: int, d_sae: int = D_SAE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(d_sae, D_MODEL)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_nearest_is_the_largest_cosine(seed):
    rng = np.random.default_rng(seed)
    one, two = (rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 9))
    one, two = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, two))
    index, cosine = nearest(one, two)
    full = one @ two.T
    np.testing.assert_array_equal(index, full.argmax(1))
    np.testing.assert_allclose(cosine, full.max(1), rtol=1e-6)


@pytest.fixture
def seeds(tmp_path):
    """The second seed has the first one's features in another order, slightly moved."""
    order = np.random.default_rng(1).permutation(D_SAE)
    first = random_rows(0)
    second = first[order] + 0.05 * random_rows(5)
    files = []
    for seed, rows in enumerate((first, second)):
        folder = saved(tmp_path / f"seed_{seed}", rows)
        live = [{"layer": 0, "feature": f, "visual_rate": 0.1 if f != 11 else 0.0} for f in range(D_SAE)]
        chosen = [0, 1, 2] if seed == 0 else [int(np.flatnonzero(order == f)[0]) for f in (0, 1)]
        final = [{"layer": 0, "feature": f, "name": f"L0F{f}"} for f in chosen]
        files.append(
            SeedFiles(
                {0: folder},
                write(tmp_path / f"adapted_{seed}.parquet", ADAPTED, live),
                write(tmp_path / f"final_{seed}.csv", FINAL_FEATURES, final),
            )
        )
    return files, order


def test_findings_are_found_again_by_their_direction(seeds, tmp_path):
    files, order = seeds
    match_seeds("space", files, tmp_path / "recurrence.csv")
    found = read_table(tmp_path / "recurrence.csv", RECURRENCE)
    mine = found[(found["seed"] == 0) & (found["arm"] == "final")].set_index("feature")
    assert list(mine.index) == [0, 1, 2]
    for feature, row in mine.iterrows():
        assert order[row["match"]] == feature
        assert row["mutual"]
        assert row["cosine"] > 0.95
        assert row["match_final"] == (feature in (0, 1))
    assert set(found["other_seed"] + found["seed"]) == {1}


def test_controls_are_live_and_not_final(seeds, tmp_path):
    files, _ = seeds
    match_seeds("space", files, tmp_path / "recurrence.csv")
    found = read_table(tmp_path / "recurrence.csv", RECURRENCE)
    for seed, chosen in ((0, {0, 1, 2}), (1, None)):
        rows = found[found["seed"] == seed]
        control, final = (set(rows.loc[rows["arm"] == arm, "feature"]) for arm in ("control", "final"))
        assert len(control) == len(final)
        assert not control & final
        assert 11 not in control
        assert chosen is None or final == chosen


def test_no_final_feature_is_an_empty_table(seeds, tmp_path):
    files, _ = seeds
    none = write(tmp_path / "none.csv", FINAL_FEATURES, [])
    match_seeds(
        "space", [SeedFiles(one.dictionaries, one.adapted, none) for one in files], tmp_path / "r.csv"
    )
    assert read_table(tmp_path / "r.csv", RECURRENCE).empty


def test_edges_of_the_stage_grid(tmp_path):
    names = ("base", "data", "model", "data_then_model", "model_then_data")
    rows = {name: random_rows(i) for i, name in enumerate(names)}
    rows["data"] = 2 * rows["base"]
    corners = {name: [saved(tmp_path / name, value)] for name, value in rows.items()}
    decided = [{"layer": 3, "feature": f, "adapted": f > 5} for f in range(D_SAE)]
    adapted = write(tmp_path / "a.parquet", ADAPTED, decided)
    final = write(tmp_path / "f.csv", FINAL_FEATURES, [{"layer": 3, "feature": 7, "name": "L3F7"}])
    compare_stages([3], corners, adapted, final, 0, tmp_path / "grid.parquet")
    found = read_table(tmp_path / "grid.parquet", STAGE_GRID)
    # Length is no rotation.
    np.testing.assert_allclose(found["data_at_start"], 1.0, atol=1e-6)

    def cosines(one, two):
        one, two = rows[one], rows[two]
        return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)

    for column, pair in (
        ("model_at_start", ("base", "model")),
        ("model_after_data", ("data", "data_then_model")),
        ("data_after_model", ("model", "model_then_data")),
        ("both_data_first", ("base", "data_then_model")),
        ("both_model_first", ("base", "model_then_data")),
        ("order_agreement", ("data_then_model", "model_then_data")),
    ):
        np.testing.assert_allclose(found[column], cosines(*pair), atol=1e-6)
    assert list(found.loc[found["adapted"], "feature"]) == list(range(6, D_SAE))
    assert list(found.loc[found["final"], "feature"]) == [7]


def test_corners_of_different_width_are_refused(tmp_path):
    names = ("base", "data", "model", "data_then_model", "model_then_data")
    corners = {name: [saved(tmp_path / name, random_rows(0, 12 + (name == "model")))] for name in names}
    empty = [
        write(tmp_path / name, schema, [])
        for name, schema in (("a.parquet", ADAPTED), ("f.csv", FINAL_FEATURES))
    ]
    with pytest.raises(DiffError, match="'model'"):
        compare_stages([0], corners, *empty, 0, tmp_path / "grid.parquet")


def test_the_table_of_a_comparison_matches_directions(seeds):
    from vlmdiff.summary.comparisons import ComparisonFiles, jaccard, matched_share

    files, _ = seeds
    entries = [
        ComparisonFiles(
            name, name, "calibrated", "base", 0, "token", {"final": str(one.final)}, one.dictionaries
        )
        for name, one in zip(("main", "other"), files)
    ]
    # Both final features of the second seed are final in the first.
    assert matched_share(entries[1], entries[0]) == 1.0
    assert matched_share(entries[0], entries[1]) == pytest.approx(2 / 3)
    one = pd.DataFrame({"layer": [0, 0], "feature": [1, 2]})
    assert jaccard(one, one.iloc[:1]) == 0.5
    assert np.isnan(jaccard(one.iloc[:0], one.iloc[:0]))

"""Features matched across dictionaries: recurrence over seeds, and the corners of the stage grid."""

from __future__ import annotations

from dataclasses import dataclass
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
from vlmdiff.features.recurrence import SeedFiles, control_features, match_seeds, nearest
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


LAYERS = (0, 3)
DEAD = 11
# Final features of the first seed by layer, and those whose counterpart is final in the second seed.
# Feature 2 is final at both layers, its counterpart at layer 3 alone.
FINAL = {0: [0, 1, 2], 3: [2, 5]}
FINAL_TOO = {0: [0, 1], 3: [2]}


@dataclass
class Seeds:
    """Files of both seeds, their decoder rows, and which feature of the first each one of the second is."""

    files: list[SeedFiles]
    rows: list[dict[int, np.ndarray]]
    order: dict[int, np.ndarray]


@pytest.fixture
def seeds(tmp_path):
    """The second seed has the first one's features in another order at each layer, slightly moved."""
    order = {layer: np.random.default_rng(layer + 1).permutation(D_SAE) for layer in LAYERS}
    first = {layer: random_rows(layer) for layer in LAYERS}
    first[3][5] = first[3][2] + 0.8 * random_rows(9)[0]
    second = {layer: first[layer][order[layer]] + 0.05 * random_rows(5) for layer in LAYERS}
    # The counterpart of 5 at layer 3 is gone: its nearest is that of 2, which is nearer to 2.
    second[3][order[3] == 5] = random_rows(20)[0]
    files = []
    for seed, rows in enumerate((first, second)):
        folders = {
            layer: saved(tmp_path / f"seed_{seed}" / f"layer_{layer}", rows[layer]) for layer in LAYERS
        }
        live = [
            {"layer": layer, "feature": f, "visual_rate": 0.1 if f != DEAD else 0.0}
            for layer in LAYERS
            for f in range(D_SAE)
        ]
        chosen = {
            layer: FINAL[layer]
            if seed == 0
            else [int(np.flatnonzero(order[layer] == f)[0]) for f in FINAL_TOO[layer]]
            for layer in LAYERS
        }
        final = [
            {"layer": layer, "feature": f, "name": f"L{layer}F{f}"} for layer in LAYERS for f in chosen[layer]
        ]
        adapted = write(tmp_path / f"adapted_{seed}.parquet", ADAPTED, live)
        files.append(
            SeedFiles(folders, adapted, write(tmp_path / f"final_{seed}.csv", FINAL_FEATURES, final))
        )
    return Seeds(files, [first, second], order)


def cosine_table(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return (one @ two.T) / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(two, axis=1)


def test_findings_are_found_again_by_their_direction(seeds, tmp_path):
    match_seeds("space", seeds.files, tmp_path / "recurrence.csv")
    found = read_table(tmp_path / "recurrence.csv", RECURRENCE)
    mine = found[(found["seed"] == 0) & (found["arm"] == "final")]
    assert list(zip(mine["layer"], mine["feature"])) == [(at, f) for at in LAYERS for f in FINAL[at]]
    for row in mine.itertuples():
        cosines = cosine_table(*(rows[row.layer] for rows in seeds.rows))
        gone = (row.layer, row.feature) == (3, 5)
        assert seeds.order[row.layer][row.match] == (2 if gone else row.feature)
        assert row.cosine == pytest.approx(cosines[row.feature].max(), abs=1e-6)
        assert row.mutual == (not gone)
        # The counterpart of 2 at layer 0 bears a number that is final at layer 3, or none: layers do not mix.
        assert row.match_final == (seeds.order[row.layer][row.match] in FINAL_TOO[row.layer])
    assert set(found["other_seed"] + found["seed"]) == {1}


def test_a_match_is_final_at_its_own_layer_only(tmp_path):
    """Both layers of the second seed are the first one's; feature 4 is final there at layer 3 alone."""
    folders = {layer: saved(tmp_path / f"layer_{layer}", random_rows(layer)) for layer in LAYERS}
    live = [{"layer": at, "feature": f, "visual_rate": 0.1} for at in LAYERS for f in range(D_SAE)]
    adapted = write(tmp_path / "adapted.parquet", ADAPTED, live)
    entries = []
    for name, keys in (("one", [(0, 4), (3, 4)]), ("two", [(0, 6), (3, 4)])):
        final = [{"layer": layer, "feature": f, "name": f"L{layer}F{f}"} for layer, f in keys]
        entries.append(SeedFiles(folders, adapted, write(tmp_path / f"{name}.csv", FINAL_FEATURES, final)))
    match_seeds("space", entries, tmp_path / "recurrence.csv")
    found = read_table(tmp_path / "recurrence.csv", RECURRENCE)
    mine = found[(found["seed"] == 0) & (found["arm"] == "final")]
    assert dict(zip(mine["layer"], mine["match_final"])) == {0: False, 3: True}
    assert list(mine["match"]) == [4, 4]


def test_controls_are_live_and_not_final(seeds, tmp_path):
    match_seeds("space", seeds.files, tmp_path / "recurrence.csv")
    found = read_table(tmp_path / "recurrence.csv", RECURRENCE)
    for seed in (0, 1):
        for layer in LAYERS:
            rows = found[(found["seed"] == seed) & (found["layer"] == layer)]
            control, final = (set(rows.loc[rows["arm"] == arm, "feature"]) for arm in ("control", "final"))
            assert len(control) == len(final)
            assert not control & final
            assert DEAD not in control
            assert seed == 1 or final == set(FINAL[layer])


def test_a_final_feature_of_another_layer_may_be_a_control():
    live = [(0, 1), (0, 2), (0, 3), (3, 1), (3, 7)]
    adapted = pd.DataFrame(live, columns=["layer", "feature"]).assign(visual_rate=0.1)
    final = pd.DataFrame([(0, 1), (0, 2), (3, 7)], columns=["layer", "feature"])
    drawn = control_features(adapted, final, 0)
    # Two are asked for at layer 0, where one is left.
    assert sorted(zip(drawn["layer"], drawn["feature"])) == [(0, 3), (3, 1)]


def test_no_final_feature_is_an_empty_table(seeds, tmp_path):
    none = write(tmp_path / "none.csv", FINAL_FEATURES, [])
    match_seeds(
        "space", [SeedFiles(one.dictionaries, one.adapted, none) for one in seeds.files], tmp_path / "r.csv"
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

    entries = [
        ComparisonFiles(
            name, name, "calibrated", "base", 0, "token", {"final": str(one.final)}, one.dictionaries
        )
        for name, one in zip(("main", "other"), seeds.files)
    ]
    # All final features of the second seed are final in the first; of its five, feature 2 at layer 0 is not,
    # and feature 5 at layer 3 is taken for 2.
    assert matched_share(entries[1], entries[0]) == 1.0
    assert matched_share(entries[0], entries[1]) == pytest.approx(4 / 5)
    one = pd.DataFrame({"layer": [0, 0], "feature": [1, 2]})
    assert jaccard(one, one.iloc[:1]) == 0.5
    assert np.isnan(jaccard(one.iloc[:0], one.iloc[:0]))

"""Features matched across dictionaries: recurrence over seeds, and the corners of the stage grid."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from feature_tables import write

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.features import recurrence
from vlmdiff.features.grid import compare_stages
from vlmdiff.features.recurrence import (
    SeedFiles,
    exchange_test,
    match_layer,
    match_seeds,
    nearest,
    rows_at,
    with_controls,
)
from vlmdiff.features.rotation import DiffError
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


@pytest.mark.parametrize("block", [2, 5, 2048])
def test_nearest_is_the_largest_cosine_however_many_rows_are_read_at_once(block, tmp_path, monkeypatch):
    monkeypatch.setattr(recurrence, "BLOCK", block)
    one, two = random_rows(3, 7), random_rows(4, 9)
    two[8] = two[2]  # of equally near features the first counts
    folders = [saved(tmp_path / name, rows) for name, rows in (("one", one), ("two", two))]
    index, cosine = nearest(rows_at(folders[0], [6, 0, 3]), folders[1])
    full = cosine_table(one, two)[[6, 0, 3]]
    np.testing.assert_array_equal(index, full.argmax(1))
    np.testing.assert_allclose(cosine, full.max(1), rtol=1e-6)
    index, _ = nearest(rows_at(folders[1], [8]), folders[1])
    assert list(index) == [2]


def test_dictionaries_of_other_width_are_refused(tmp_path):
    with pytest.raises(DictionaryError, match="3 and 16 dimensions"):
        nearest(np.ones((1, 3), np.float32), saved(tmp_path / "one", random_rows(0)))


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


def test_controls_are_live_not_final_and_of_the_same_layers(seeds, tmp_path):
    match_seeds("space", seeds.files, tmp_path / "recurrence.csv")
    found = read_table(tmp_path / "recurrence.csv", RECURRENCE)
    for seed in (0, 1):
        for layer in LAYERS:
            rows = found[(found["seed"] == seed) & (found["layer"] == layer)]
            control, final = (rows[rows["arm"] == arm] for arm in ("control", "final"))
            assert set(control["pair"]) == set(final["pair"]) and control["feature"].is_unique
            assert not set(control["feature"]) & set(final["feature"])
            assert DEAD not in set(control["feature"])
            assert seed == 1 or list(final["feature"]) == FINAL[layer]


def test_a_control_is_the_nearest_in_rate_that_is_left():
    live = [(0, 0, 0.100), (0, 1, 0.0201), (0, 2, 0.092), (0, 3, 0.0402), (0, 4, 0.0), (0, 5, 0.0198)]
    live += [(0, 6, 0.040), (0, 7, 0.0197), (0, 8, 0.03), (3, 1, 0.47), (3, 7, 0.5), (0, 9, 0.0196)]
    live += [(3, 2, 0.1), (0, 10, 0.6), (0, 11, 0.54)]
    adapted = pd.DataFrame(live, columns=["layer", "feature", "visual_rate"]).sample(frac=1, random_state=0)
    final = pd.DataFrame([(0, 1), (0, 0), (3, 7), (0, 6), (0, 7), (0, 10)], columns=["layer", "feature"])
    found = with_controls(final, adapted)
    assert list(zip(found["layer"], found["feature"]))[:4] == [(0, 1), (0, 0), (3, 7), (0, 6)]
    control = found[found["arm"] == "control"].set_index("pair")
    # Of the two of 0.02 the larger chooses first; 0.54 is more than a tenth below 0.6 (log 0.105).
    assert control["feature"].to_dict() == {0: 5, 1: 2, 2: 1, 3: 3, 4: 9}
    assert control["layer"].to_dict() == {0: 0, 1: 0, 2: 3, 3: 0, 4: 0}
    assert control["visual_rate"].to_dict() == {0: 0.0198, 1: 0.092, 2: 0.47, 3: 0.0402, 4: 0.0196}


def test_a_final_feature_of_another_layer_may_be_a_control_and_some_final_ones_have_none():
    live = [(0, 1, 0.30), (0, 2, 0.31), (0, 3, 0.32), (0, 4, 0.0), (3, 1, 0.1), (3, 7, 0.1)]
    adapted = pd.DataFrame(live, columns=["layer", "feature", "visual_rate"])
    final = pd.DataFrame([(0, 1), (0, 2), (3, 7)], columns=["layer", "feature"])
    found = with_controls(final, adapted)
    control = found[found["arm"] == "control"]
    assert sorted(zip(control["layer"], control["feature"], control["pair"])) == [(0, 3, 1), (3, 1, 2)]
    assert sorted(found.loc[found["arm"] == "final", "pair"]) == [0, 1, 2]


def rows_of(seed, other, arm, pair, feature, match, match_final):
    return {
        "seed": seed,
        "other_seed": other,
        "layer": 0,
        "arm": arm,
        "pair": pair,
        "feature": feature,
        "match": match,
        "match_final": match_final,
    }


def exact_p(chosen: dict[int, list[tuple[int, int]]], nearest_to: dict) -> float:
    """Exchange final features and controls in every way: chosen[seed] are (final, control), seed by seed."""
    places = [(seed, pair) for seed, pairs in chosen.items() for pair in range(len(pairs))]

    def difference(swapped: dict) -> int:
        arms = {
            seed: [pair[:: -1 if swapped[seed, at] else 1] for at, pair in enumerate(pairs)]
            for seed, pairs in chosen.items()
        }
        total = 0
        for seed, other in itertools.permutations(chosen, 2):
            final_there = {final for final, _ in arms[other]}
            for final, control in arms[seed]:
                total += nearest_to[seed, other, final] in final_there
                total -= nearest_to[seed, other, control] in final_there
        return total

    every = [dict(zip(places, ways)) for ways in itertools.product((False, True), repeat=len(places))]
    observed = difference(dict.fromkeys(places, False))
    return sum(difference(swapped) >= observed for swapped in every) / len(every)


def table_of(chosen: dict[int, list[tuple[int, int]]], nearest_to: dict) -> pd.DataFrame:
    rows = []
    for seed, other in itertools.permutations(chosen, 2):
        final_there = {final for final, _ in chosen[other]}
        for pair, members in enumerate(chosen[seed]):
            for arm, feature in zip(("final", "control"), members):
                match = nearest_to[seed, other, feature]
                rows.append(rows_of(seed, other, arm, pair, feature, match, match in final_there))
    return pd.DataFrame(rows)


@pytest.mark.parametrize("case", range(4))
def test_the_p_is_that_of_all_exchanges(case):
    """Three seeds of a few pairs: final features meet each other often, controls now and then."""
    rng = np.random.default_rng(case)
    chosen = {seed: [(f, 10 + f) for f in range(n)] for seed, n in enumerate((3, 4, 3))}
    nearest_to = {}
    for seed, other in itertools.permutations(chosen, 2):
        for members in chosen[seed]:
            for arm, feature in enumerate(members):
                again = rng.random() < (0.7, 0.3)[arm]
                likely = chosen[other][feature % 10 % len(chosen[other])][0]
                nearest_to[seed, other, feature] = likely if again else int(rng.integers(0, 20))
    expected = exact_p(chosen, nearest_to)
    found = exchange_test(table_of(chosen, nearest_to))
    # Four standard errors of 9,999 draws.
    assert found.p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 9999) + 2e-4)
    assert 0.001 < expected < 0.9
    assert found.features == 10


def test_one_feature_found_from_all_sides_is_one_finding():
    """A single final feature of each of three seeds recurs: six rows of six, and one chance in eight."""
    chosen = {seed: [(0, 1)] for seed in range(3)}
    nearest_to = {
        (seed, other, feature): 0 if feature == 0 else 9
        for seed, other in itertools.permutations(range(3), 2)
        for feature in (0, 1)
    }
    found = exchange_test(table_of(chosen, nearest_to))
    assert found.p == pytest.approx(1 / 8, abs=0.015)
    assert (found.share("final"), found.share("control")) == (1.0, 0.0)
    assert list(found.by_seeds) == [1.0] * 6


def test_findings_that_do_not_recur_are_no_evidence():
    """Controls meet final features as often as final features do."""
    chosen = {seed: [(f, 20 + f) for f in range(15)] for seed in range(2)}
    nearest_to = {
        (seed, 1 - seed, feature): feature % 20 if feature % 3 == 0 else 50
        for seed in chosen
        for members in chosen[seed]
        for feature in members
    }
    shares = exchange_test(table_of(chosen, nearest_to))
    assert shares.p > 0.2


def test_a_final_feature_without_control_is_found_and_does_not_seek():
    chosen = {seed: [(f, 20 + f) for f in range(4)] for seed in range(2)}
    nearest_to = {(s, 1 - s, f): f if f < 20 else 50 for s in chosen for pair in chosen[s] for f in pair}
    table = table_of(chosen, nearest_to)
    alone = table[~(table["seed"].eq(1) & table["arm"].eq("control") & table["pair"].eq(3))]
    found = exchange_test(alone)
    assert found.features == 7
    # Of seed 0 all four meet a final feature, of seed 1 the three that have a control.
    assert found.rows["match_final"].sum() == 7
    assert exchange_test(table[table["arm"] == "final"]).p == 1.0


def test_matching_a_layer_never_holds_a_whole_dictionary(tmp_path):
    d_model, d_sae = 128, 16_384
    folders = []
    for seed in range(3):
        folders.append(tmp_path / str(seed))
        save_dictionary(TopKDictionary(d_model, d_sae, 4), folders[-1], {})
    chosen = pd.DataFrame({"layer": 0, "feature": np.arange(40), "arm": "final"})
    call = lambda: list(match_layer([chosen] * 3, folders, [np.arange(40)] * 3))  # noqa: E731
    call()  # imports count once
    tracemalloc.start()
    found = call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 6
    assert peak < d_sae * d_model * 4


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

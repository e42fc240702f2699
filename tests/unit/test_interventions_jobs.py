"""The jobs of the room on tiny files: tables by contract, repeatable, nothing breaks without features."""

import logging

import numpy as np
import pytest
from causal_files import D_SAE, DEAD, SELECTED, answered, filled, write_dictionaries, write_tables
from tiny_models import build_tiny_dataset

from vlmdiff.data.samples import load_samples
from vlmdiff.interventions.ablation import plan_ablation, unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, dictionary_folders, ranked_features
from vlmdiff.interventions.ranking import rank_features
from vlmdiff.interventions.report import controls, evaluate_ablation
from vlmdiff.tables.causal import ABLATION, RANKING
from vlmdiff.tables.io import read_table, write_table

FINAL = [(0, 3), (2, 1), (1, 5), (1, 7)]


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory):
    return write_dictionaries(tmp_path_factory.mktemp("dictionaries"))


@pytest.fixture(scope="module")
def model(tiny_vlm_path):
    return ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json"))


@pytest.fixture(scope="module")
def questions(tiny_dataset, tmp_path_factory):
    general = build_tiny_dataset(tmp_path_factory.mktemp("general") / "data", samples=20, seed=1)
    files = (str(tiny_dataset / "samples.jsonl"), str(general / "samples.jsonl"))
    return QuestionSets(*files, ["spatial", "general"], samples=20, batch_tokens=1024)


def rank(model, questions, dictionaries, tables, output, candidates=3):
    stage = {"layers": [0, 1, 2], "concept": "c", "scope": "own_layer", "candidates": candidates}
    rank_features(model, questions, dictionaries, tables["final_features"], str(output), **stage)
    return read_table(output, RANKING)


def ablate(model, questions, dictionaries, tables, output, scope="own_layer"):
    stage = {"scope": scope, "single_features": 2, "set_sizes": [3, 9]}
    stage |= {"layers": [0, 1, 2], "concept": "c", "random_draws": 20, "bootstrap": 100, "seed": 1}
    evaluate_ablation(model, questions, dictionaries, tables, str(output), **stage)
    return read_table(output, ABLATION)


@pytest.fixture(scope="module")
def tables(model, questions, dictionaries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    files = write_tables(folder, FINAL)
    rank(model, questions, dictionaries, files, folder / "ranking.csv")
    return files | {"ranking": str(folder / "ranking.csv")}


def test_ranking_takes_the_strongest_candidates_most_specific_first(tables):
    ranking = read_table(tables["ranking"], RANKING)
    assert set(zip(ranking["layer"], ranking["feature"])) == set(FINAL[:3])
    assert (np.diff(ranking["specificity"]) <= 0).all()
    assert list(ranking["rank"]) == [0, 1, 2]
    assert ranking["specificity"].iloc[0] > ranking["specificity"].iloc[-1]


def test_ranking_reports_the_change_of_margin_and_accuracy(model, questions, dictionaries, tables):
    best = read_table(tables["ranking"], RANKING).iloc[0]
    feature, subject = (int(best["layer"]), int(best["feature"])), model.load()
    directions = unit_directions(dictionary_folders(dictionaries, [0, 1, 2]), [feature])
    plan = plan_ablation(subject, directions, [feature], "own_layer")
    change = {}
    for role, file in (("target", questions.target), ("control", questions.control)):
        samples = load_samples(file, limit=20)
        clean, ablated = (answered(subject, samples, *editor) for editor in ((), (plan,)))
        change[role] = (ablated.margin - clean.margin).mean()
        assert best[f"{role}_delta_margin"] == pytest.approx(change[role], abs=1e-6)
        assert best[f"{role}_delta_accuracy"] == pytest.approx(ablated.correct.mean() - clean.correct.mean())
    assert best["specificity"] == pytest.approx(change["control"] - change["target"], abs=1e-6)


def test_controls_are_live_neither_final_nor_selected(tables):
    matched = controls(tables["adapted"], tables["contrast"], tables["final_features"])
    for layer in range(3):
        live = set(range(D_SAE)) - {DEAD} - {index for own, index in FINAL if own == layer}
        assert set(matched.live[layer].feature) == live
        assert set(matched.unselected[layer].feature) == live - set(SELECTED)


def test_ranked_features_come_by_rank(tmp_path):
    rows = [
        {"concept": "c", "layer": 0, "feature": feature, "rank": rank}
        for feature, rank in ((7, 2), (5, 0), (6, 1))
    ]
    write_table(filled(RANKING, rows), RANKING, tmp_path / "ranking.csv")
    assert ranked_features(tmp_path / "ranking.csv", 2) == [(0, 5), (0, 6)]


def test_ablation_says_what_a_run_by_hand_says(model, questions, dictionaries, tables, tmp_path):
    table = ablate(model, questions, dictionaries, tables, tmp_path / "ablation.csv")
    ranked = ranked_features(tables["ranking"], 3)
    subject = model.load()
    directions = unit_directions(dictionary_folders(dictionaries, [0, 1, 2]), ranked)
    whole = table[(table["group"] == "all") & (table["arm"] == "selected")]
    for features in (ranked[1:2], ranked):
        plan = plan_ablation(subject, directions, features, "own_layer")
        names = ";".join(f"L{layer}F{index}" for layer, index in features)
        for name, file in (("spatial", questions.target), ("general", questions.control)):
            samples = load_samples(file, limit=20)
            clean, ablated = (answered(subject, samples, *editor) for editor in ((), (plan,)))
            row = whole[(whole["features"] == names) & (whole["dataset"] == name)].iloc[0]
            assert row["delta_margin"] == pytest.approx((ablated.margin - clean.margin).mean(), abs=1e-5)
            assert row["accuracy_clean"] == pytest.approx(clean.correct.mean())
            assert row["accuracy"] == pytest.approx(ablated.correct.mean())


def test_ablation_table_is_complete_and_repeatable(model, questions, dictionaries, tables, tmp_path):
    table = ablate(model, questions, dictionaries, tables, tmp_path / "first.csv")
    rows_of_a_run = table.groupby(["arm", "size", "draw", "dataset"]).size()
    assert set(rows_of_a_run) == {6}
    counts = table[(table["group"] == "all") & (table["dataset"] == "spatial")]
    counts = counts.groupby(["arm", "size"]).size()
    assert counts.to_dict() == {
        ("selected", 1): 2, ("selected", 3): 1, ("random", 1): 20, ("random", 3): 20,
    }  # fmt: skip
    random = table[table["arm"] == "random"]
    drawn = {name for names in random["features"] for name in names.split(";")}
    assert not drawn & {f"L{layer}F{feature}" for layer, feature in FINAL}
    assert not drawn & {f"L{layer}F{feature}" for layer in range(3) for feature in [*SELECTED, DEAD]}
    ablate(model, questions, dictionaries, tables, tmp_path / "second.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


def test_both_scopes_ablate_the_same_draws(model, questions, dictionaries, tables, tmp_path):
    own, all_layers = (
        ablate(model, questions, dictionaries, tables, tmp_path / f"{scope}.csv", scope)
        for scope in ("own_layer", "all_layers")
    )
    assert own["features"].equals(all_layers["features"])
    assert set(own["scope"]) == {"own_layer"}
    assert not own["delta_margin"].equals(all_layers["delta_margin"])


def test_without_final_features_the_tables_are_empty(model, questions, dictionaries, tmp_path, caplog):
    files = write_tables(tmp_path, [])
    with caplog.at_level(logging.WARNING):
        assert rank(model, questions, dictionaries, files, tmp_path / "ranking.csv").empty
        files["ranking"] = str(tmp_path / "ranking.csv")
        table = ablate(model, questions, dictionaries, files, tmp_path / "ablation.csv")
    assert table.empty
    assert list(table.columns) == ABLATION.names
    assert "nothing to rank" in caplog.text
    assert "nothing to ablate" in caplog.text

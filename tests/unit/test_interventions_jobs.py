"""The jobs of the room on tiny files: tables by contract, repeatable, nothing breaks without features."""

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from causal_files import DEAD, SELECTED, answered, filled, rank_tiny, write_dictionaries, write_tables
from tiny_models import build_tiny_dataset

from vlmdiff.activations.tokens import BOS, IMAGE, TEXT
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.files import load_dictionary, save_dictionary
from vlmdiff.interventions.ablation_arms import evaluate_ablation
from vlmdiff.interventions.activity import Variance, feature_activity, usual_text
from vlmdiff.interventions.feature_ablation import plan_ablation, unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, dictionary_folders, ranked_features
from vlmdiff.interventions.screening import estimated_changes
from vlmdiff.models.hooks import edit_output, record_inputs
from vlmdiff.models.subject import Subject
from vlmdiff.tables.causal import ABLATION, RANKING
from vlmdiff.tables.features import CONTRAST
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


def ablate(model, questions, dictionaries, tables, output, scope="own_layer"):
    stage = {"scope": scope, "single_features": 2, "set_sizes": [3, 9]}
    stage |= {"layers": [0, 1, 2], "concept": "c", "bootstrap": 100, "massive_ratio": 0.0, "seed": 1}
    evaluate_ablation(model, questions, dictionaries, tables, str(output), **stage)
    return read_table(output, ABLATION)


@pytest.fixture(scope="module")
def tables(model, questions, dictionaries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return rank_tiny(model, questions, dictionaries, write_tables(folder, FINAL), folder)


def features_of(table):
    return list(zip(table["layer"], table["feature"]))


def test_ranking_takes_the_strongest_candidates_most_specific_first(tables):
    ranking = read_table(tables["ranking"], RANKING)
    assert set(features_of(ranking)) == set(FINAL[:3])
    assert (np.diff(ranking["specificity"]) <= 0).all()
    assert list(ranking["rank"]) == [0, 1, 2] and set(ranking["pool"]) == {-1}
    assert ranking["specificity"].iloc[0] > ranking["specificity"].iloc[-1]
    assert list(ranking["stands_for"]) == list(ranking["name"])


def test_pools_stand_for_the_candidates_and_are_ranked_as_they_are(tables):
    pools = read_table(tables["pools"], RANKING)
    of_concept = {(layer, i) for layer in range(3) for i in SELECTED} | set(FINAL)
    assert sorted(pools["pool"].unique()) == list(range(20))
    for _, pool in pools.groupby("pool"):
        assert sorted(pool["stands_for"]) == sorted(f"L{layer}F{i}" for layer, i in FINAL[:3])
        assert [f"L{layer}" for layer in pool["layer"]] == [name[:2] for name in pool["stands_for"]]
        assert len(set(features_of(pool))) == 3
        # A pool may hold a candidate, in its own place alone.
        for row in pool[[feature in of_concept for feature in features_of(pool)]].itertuples():
            assert row.name == row.stands_for and (row.layer, row.feature) in FINAL[:3]
        assert list(pool["rank"]) == [0, 1, 2] and (np.diff(pool["specificity"]) <= 0).all()
    assert (pools["rate"] > 0).all() and (pools["energy"] > 0).all()
    # What pools share was measured once.
    assert (pools.groupby(["layer", "feature"])["target_delta_margin"].nunique() == 1).all()
    assert pools.groupby("pool")["name"].agg(tuple).nunique() > 15
    assert (pools["name"] == pools["stands_for"]).mean() < 0.3


def test_ranking_reports_the_change_of_margin_and_accuracy(model, questions, dictionaries, tables):
    for file in (tables["ranking"], tables["pools"]):
        best = read_table(file, RANKING).iloc[0]
        feature, subject = (int(best["layer"]), int(best["feature"])), model.load()
        directions = unit_directions(dictionary_folders(dictionaries, [0, 1, 2]), [feature])
        plan = plan_ablation(subject, directions, [feature], "own_layer")
        change = {}
        for role, data in (("target", questions.target), ("control", questions.control)):
            samples = load_samples(data, limit=20)
            clean, ablated = (answered(subject, samples, one) for one in (None, plan))
            change[role] = (ablated.margin - clean.margin).mean()
            accuracy = ablated.correct.mean() - clean.correct.mean()
            assert best[f"{role}_delta_margin"] == pytest.approx(change[role], abs=1e-6)
            assert best[f"{role}_delta_accuracy"] == pytest.approx(accuracy)
        # A control that rises is as unspecific as one that falls.
        assert best["specificity"] == pytest.approx(-change["target"] - abs(change["control"]), abs=1e-6)


def test_only_the_first_by_estimate_are_measured(model, questions, dictionaries, tables, tmp_path):
    files = rank_tiny(model, questions, dictionaries, write_tables(tmp_path, FINAL), tmp_path, verified=2)
    whole = read_table(tables["ranking"], RANKING).set_index("name")
    for file in (files["ranking"], files["pools"]):
        for _, pool in read_table(file, RANKING).groupby("pool"):
            assert list(pool["target_delta_margin"].isna()) == [False, False, True]
            estimated = -pool["target_estimate"] - pool["control_estimate"].abs()
            assert estimated.iloc[:2].min() >= estimated.iloc[2]
            assert pool["specificity"].iloc[0] >= pool["specificity"].iloc[1]
    for row in read_table(files["ranking"], RANKING).iloc[:2].itertuples():
        assert row.target_delta_margin == pytest.approx(whole.loc[row.name, "target_delta_margin"], abs=1e-6)


@dataclass(frozen=True, eq=False)
class Written:
    """Takes a share of a direction from what some blocks add to the stream, and what enters the first."""

    subject: Subject
    direction: torch.Tensor
    layers: list[int]
    share: float

    @property
    def first_block(self):
        return self.layers[0]

    def tokens(self, batch):
        return batch.token_type == TEXT

    @contextmanager
    def at(self, where):
        def less(values, part):
            along = (part @ self.direction)[..., None] * self.direction
            return values - self.share * along * where[..., None]

        first = self.subject.block(self.first_block)
        with ExitStack() as stack:
            entered = stack.enter_context(record_inputs({0: first}))
            for layer in self.layers:
                for module in self.subject.writers(layer):
                    stack.enter_context(edit_output(module, lambda values: less(values, values)))
            stack.enter_context(edit_output(first, lambda values: less(values, entered[0])))
            yield


@pytest.mark.parametrize("scope", ["own_layer", "all_layers"])
def test_estimates_are_the_derivative_of_what_is_removed(model, questions, dictionaries, scope):
    """Held against a small step of the same removal, feature by feature."""
    subject = model.load()
    evaluation = questions.evaluations(subject)["spatial"]
    features = [(1, 7), (0, 3), (2, 1)]
    directions = unit_directions(dictionary_folders(dictionaries, [0, 1, 2]), features)
    found = estimated_changes(subject, evaluation, directions, features, scope, 200)
    clean, step = evaluation.answers().margin, 1e-2
    for feature, estimate in zip(features, found):
        layers = [feature[0]] if scope == "own_layer" else [0, 1, 2]
        changes = [
            (evaluation.answers(Written(subject, directions[feature], layers, share)).margin - clean).mean()
            for share in (step, -step)
        ]
        assert estimate == pytest.approx((changes[0] - changes[1]) / (2 * step), rel=0.02, abs=1e-5)
        assert abs(estimate) > 1e-4


def test_layers_without_controls_enough_have_no_ranked_feature(model, questions, dictionaries, tmp_path):
    """The contrast selects all of layer 1: nothing is left that could stand beside (1, 5)."""
    files = write_tables(tmp_path, FINAL)
    contrast = read_table(files["contrast"], CONTRAST)
    contrast.loc[contrast["layer"] == 1, "selected"] = True
    write_table(contrast, CONTRAST, files["contrast"])
    files = rank_tiny(model, questions, dictionaries, files, tmp_path)
    assert set(features_of(read_table(files["ranking"], RANKING))) == {(0, 3), (2, 1)}
    assert set(read_table(files["pools"], RANKING)["stands_for"]) == {"L0F3", "L2F1"}


def test_massive_tokens_and_images_are_no_text():
    """Norms 9, 1, 1, 2, 40 and 3 of BOS, text, text, image, text, text: the median of text is 1."""
    residual = torch.tensor([9.0, 1.0, 1.0, 2.0, 40.0, 3.0])[None, :, None] * torch.eye(2)[0]
    types = torch.tensor([[BOS, TEXT, TEXT, IMAGE, TEXT, TEXT]], dtype=torch.uint8)
    for ratio, kept in ((5.0, [1.0, 1.0, 3.0]), (0.0, [1.0, 1.0, 40.0, 3.0])):
        assert usual_text(residual, types, ratio)[:, 0].tolist() == kept


def test_activity_and_removed_variance_by_hand(model, questions, dictionaries, tables, tmp_path):
    subject = model.load()
    evaluation = replace(questions, batch_tokens=200).evaluations(subject)["spatial"]
    assert len(list(evaluation.batches)) > 2
    folders = dictionary_folders(dictionaries, [0, 1, 2])
    table = feature_activity(subject, evaluation, folders, 0.0).set_index(["layer", "feature"])
    tokens = {1: [], 2: []}
    for sample in evaluation.samples:
        batch = subject.prepare([sample.prompt], [sample.open_image()])
        with torch.no_grad():
            for layer, residual in subject.residuals(batch, [1, 2]).items():
                tokens[layer].append(residual[0][batch.token_type[0] == TEXT])
    values, later, dictionary = torch.cat(tokens[1]), torch.cat(tokens[2]), load_dictionary(folders[1])
    with torch.no_grad():
        z = dictionary.encode(values)
    lengths = dictionary.W_dec.detach().norm(dim=1)
    for feature in (3, 7, DEAD):
        assert table.loc[(1, feature), "rate"] == pytest.approx(float((z[:, feature] > 0).float().mean()))
        energy = float((z[:, feature] * lengths[feature]).square().mean())
        assert table.loc[(1, feature), "energy"] == pytest.approx(energy, rel=1e-4)
    # Rows three times as long write nine times the energy, as often as before.
    with torch.no_grad():
        dictionary.W_dec.mul_(3.0)
    save_dictionary(dictionary, tmp_path / "long", {})
    longer = feature_activity(subject, evaluation, {1: tmp_path / "long"}, 0.0)
    np.testing.assert_allclose(longer["energy"], 9 * table.loc[1, "energy"], rtol=1e-5)
    np.testing.assert_allclose(longer["rate"], table.loc[1, "rate"])
    directions = unit_directions(folders, [(1, 3), (1, 7)])
    plan = plan_ablation(subject, directions, [(1, 3), (1, 7)], "own_layer")
    centred = values - values.mean(dim=0)
    basis = torch.linalg.qr(torch.stack(list(directions.values())).T).Q
    share = float((centred @ basis).square().sum() / centred.square().sum())
    variance = Variance.of(subject, evaluation, [0, 1, 2], 0.0)
    assert variance.removed(plan) == pytest.approx(share, rel=1e-4)
    assert 0.001 < share < 0.9
    # Over several blocks it is a mean.
    (other,) = unit_directions(folders, [(2, 1)]).values()
    centred = later - later.mean(dim=0)
    beside = float((centred @ other).square().sum() / centred.square().sum())
    plan = plan_ablation(subject, {**directions, (2, 1): other}, [(1, 3), (1, 7), (2, 1)], "own_layer")
    assert variance.removed(plan) == pytest.approx((share + beside) / 2, rel=1e-4)
    assert abs(share - beside) > 0.001
    # The questions of the target tell how active a ranked feature is.
    for row in read_table(tables["ranking"], RANKING).itertuples():
        assert row.rate == pytest.approx(table.loc[(row.layer, row.feature), "rate"])
        assert row.energy == pytest.approx(table.loc[(row.layer, row.feature), "energy"])


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
            clean, ablated = (answered(subject, samples, one) for one in (None, plan))
            row = whole[(whole["features"] == names) & (whole["dataset"] == name)].iloc[0]
            assert row["delta_margin"] == pytest.approx((ablated.margin - clean.margin).mean(), abs=1e-5)
            assert row["accuracy_clean"] == pytest.approx(clean.correct.mean())
            assert row["accuracy"] == pytest.approx(ablated.correct.mean())


def test_ablation_table_is_complete_and_repeatable(model, questions, dictionaries, tables, tmp_path):
    table = ablate(model, questions, dictionaries, tables, tmp_path / "first.csv")
    rows_of_a_run = table.groupby(["arm", "size", "draw", "dataset"]).size()
    assert ((table["removed"] > 0) & (table["removed"] < 1) & (table["rate"] > 0)).all()
    assert set(rows_of_a_run) == {6}
    counts = table[(table["group"] == "all") & (table["dataset"] == "spatial")]
    counts = counts.groupby(["arm", "size"]).size()
    assert counts.to_dict() == {
        ("selected", 1): 2, ("selected", 3): 1, ("random", 1): 20, ("random", 3): 20,
    }  # fmt: skip
    ranking = read_table(tables["ranking"], RANKING)
    for row in table[(table["arm"] == "selected") & (table["size"] == 3)].itertuples():
        assert (row.rate, row.energy) == pytest.approx((ranking["rate"].mean(), ranking["energy"].mean()))
    random = table[table["arm"] == "random"]
    drawn = {name for names in random["features"] for name in names.split(";")}
    assert f"L{FINAL[3][0]}F{FINAL[3][1]}" not in drawn
    assert not drawn & {f"L{layer}F{feature}" for layer in range(3) for feature in SELECTED}
    pools = read_table(tables["pools"], RANKING)
    for size in (1, 3):
        best = pools[pools["rank"] < size].groupby("pool")["name"].agg(";".join)
        found = random[random["size"] == size].groupby("draw")["features"].agg(lambda names: set(names))
        assert [{names} for names in best] == list(found)
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
        files = rank_tiny(model, questions, dictionaries, files, tmp_path)
        table = ablate(model, questions, dictionaries, files, tmp_path / "ablation.csv")
    assert table.empty
    assert all(read_table(files[name], RANKING).empty for name in ("ranking", "pools"))
    assert list(table.columns) == ABLATION.names
    assert "nothing to rank" in caplog.text
    assert "nothing to ablate" in caplog.text

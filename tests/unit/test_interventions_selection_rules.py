"""Selection rules and transfer over models: sets as the filters say, effects as the ablation gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from causal_files import answered, rank_tiny, write_dictionaries, write_tables
from feature_tables import table, write, write_statistics
from tiny_models import build_tiny_dataset, build_tiny_vlm

from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.files import load_dictionary, save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.interventions.activity import counted_activity, feature_activity
from vlmdiff.interventions.feature_ablation import AblationError, plan_ablation, unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, dictionary_folders
from vlmdiff.interventions.matching import MatchedFeatures
from vlmdiff.interventions.selection_rules import (
    by_rule,
    decisions,
    evaluate_selection,
    matched_arms,
    selection_arms,
)
from vlmdiff.interventions.transfer import evaluate_transfer, transfer_ratios
from vlmdiff.tables.causal import SELECTION, TRANSFER
from vlmdiff.tables.features import ADAPTED, CONTRAST, LEXICAL
from vlmdiff.tables.io import read_table

EPS = 0.5
# Of other dictionaries than crosscoders the job looks for itself what features do.
NOT_COUNTED = {"statistics": [], "totals": []}
# (feature of layer 1): visual energy, adapted, invariant, log p. The contrast per token selects all but 9,
# that per sample 9 alone. Energies lie around eps and on it.
FEATURES = {
    0: (1.0, True, True, -50),
    1: (0.6, True, False, -40),
    2: (0.9, False, True, -30),
    3: (0.5, False, True, -20),
    4: (0.51, True, True, -60),
    5: (1.0, True, None, -5),
    9: (1.0, True, True, 0),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    rates = np.random.default_rng(0).uniform(0.01, 0.5, 48)
    adapted, contrast, lexical = [], [], []
    for feature in range(48):
        energy, is_adapted, invariant, log_p = FEATURES.get(feature, (1.0, False, None, 0))
        key = {"layer": 1, "feature": feature}
        adapted.append({**key, "visual_energy": energy, "adapted": is_adapted, "visual_rate": rates[feature]})
        selected = feature in FEATURES and feature != 9
        contrast.append({**key, "unit": "token", "selected": selected, "log_p": log_p})
        contrast.append({**key, "unit": "sample", "selected": feature == 9, "log_p": -1.0})
        if invariant is not None:
            lexical.append({**key, "invariant": invariant})
    return {
        "adapted": str(write(folder / "adapted.parquet", ADAPTED, adapted)),
        "contrast": str(write(folder / "contrast.parquet", CONTRAST, contrast)),
        "lexical": str(write(folder / "lexical.parquet", LEXICAL, lexical)),
    }


def test_each_rule_gives_what_its_filters_leave_strongest_first(tables):
    given = by_rule(decisions(tables, "token", EPS))
    assert {rule: list(part["feature"]) for rule, part in given.items()} == {
        "contrast": [4, 0, 1, 2, 3, 5],
        "contrast_visual": [4, 0, 1, 2, 5],
        "contrast_lexical": [4, 0, 2],
        "contrast_adapted": [4, 0, 1, 5],
        "full": [4, 0],
    }
    assert list(by_rule(decisions(tables, "sample", EPS))["full"]["feature"]) == [9]


def test_arms_are_the_strongest_and_random_subsets(tables):
    given = by_rule(decisions(tables, "token", EPS))
    arms = {(arm.arm, arm.draw): arm for arm in selection_arms(given, [2], 3, seed=0)}
    assert arms["contrast", 0].features == ((1, 4), (1, 0))
    assert {arm for arm, _ in arms} == set(given)
    # The full rule gives just two: there is one set.
    assert [draw for rule, draw in arms if rule == "full"] == [0]
    subsets = [set(arms["contrast", draw].features) for draw in (1, 2, 3)]
    assert all(len(subset) == 2 for subset in subsets)
    assert len({frozenset(subset) for subset in subsets}) > 1
    # A rule that gives fewer than asked for has one set, all of them.
    larger = [(arm.size, arm.draw) for arm in selection_arms(given, [3], 3, seed=0) if arm.arm == "full"]
    assert larger == [(2, 0)]


def test_random_sets_stand_for_random_ones_of_the_last_rule(tables):
    given = by_rule(decisions(tables, "token", EPS))
    given = {rule: given[rule] for rule in ("contrast", "contrast_lexical")}
    activity = pd.DataFrame({"layer": 1, "feature": range(48), "rate": 0.1, "energy": 1.0})
    activity.loc[:5, "rate"] = activity.loc[30:35, "rate"] = np.exp(np.arange(6))
    matched = MatchedFeatures(activity, [(1, i) for i in range(6)], neighbours=1)
    arms = matched_arms(given, [2, 5], matched, 30, seed=0)
    # The last rule gives three features: sets of two, and of all three.
    assert [(arm.arm, arm.size, arm.draw) for arm in arms] == [
        ("random", size, draw) for size in (2, 3) for draw in range(30)
    ]
    # The nearest of feature i is feature 30 + i.
    twins = {frozenset({(1, 34), (1, 30), (1, 32)} - {one}) for one in ((1, 34), (1, 30), (1, 32))}
    assert {frozenset(arm.features) for arm in arms if arm.size == 2} == twins
    assert {frozenset(arm.features) for arm in arms if arm.size == 3} == {
        frozenset({(1, 34), (1, 30), (1, 32)})
    }
    assert matched_arms({"full": given["contrast"].iloc[:0]}, [2], matched, 30, seed=0) == []


@pytest.fixture(scope="module")
def model(tiny_vlm_path):
    return ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json"))


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory):
    return write_dictionaries(tmp_path_factory.mktemp("dictionaries"))


@pytest.fixture(scope="module")
def questions(tiny_dataset, tmp_path_factory):
    general = build_tiny_dataset(tmp_path_factory.mktemp("general") / "data", samples=20, seed=1)
    files = (str(tiny_dataset / "samples.jsonl"), str(general / "samples.jsonl"))
    return QuestionSets(*files, ["spatial", "general"], samples=20, batch_tokens=1024)


def select(model, questions, dictionaries, tables, output, counted=NOT_COUNTED, **changes):
    stage = {"layers": [0, 1, 2], "comparison": "main", "concept": "c", "unit": "token", "eps": EPS}
    stage |= {"rules": ["contrast", "contrast_visual", "full"], "sizes": [2], "draws": 2}
    stage |= {"random_draws": 10, "bootstrap": 50, "massive_ratio": 0.0, "seed": 1, **changes}
    evaluate_selection(model, questions, dictionaries, tables, counted, str(output), **stage)
    return read_table(output, SELECTION)


def test_selection_table(model, questions, dictionaries, tables, tmp_path):
    found = select(model, questions, dictionaries, tables, tmp_path / "s.csv")
    whole = found[(found["group"] == "all") & (found["dataset"] == "spatial")]
    counts = whole.groupby("rule").size().to_dict()
    assert counts == {"contrast": 3, "contrast_visual": 3, "full": 1, "random": 10}
    assert whole.set_index("rule")["available"].groupby(level=0).first().to_dict() == {
        "contrast": 6,
        "contrast_visual": 5,
        "full": 2,
        "random": 0,
    }
    # Sets of the same features are measured once and agree to the last digit.
    first = whole[whole["draw"] == 0].set_index("rule")
    assert set(first.loc[["contrast", "contrast_visual", "full"], "features"]) == {"L1F4;L1F0"}
    assert first.loc[["contrast", "contrast_visual", "full"], "delta_margin"].nunique() == 1
    assert whole.loc[whole["rule"] == "contrast", "delta_margin"].nunique() == 3
    assert first.loc["contrast", "delta_margin"] == pytest.approx(
        ablated_by_hand(model, questions.target, dictionaries, [(1, 4), (1, 0)], "all_layers"), abs=1e-5
    )
    drawn = {name for row in whole.loc[whole["rule"] == "random", "features"] for name in row.split(";")}
    assert not drawn & {f"L1F{i}" for i in range(6)}


def test_nothing_selected_is_an_empty_table(model, questions, dictionaries, tables, tmp_path):
    none = pd.read_parquet(tables["contrast"]).assign(selected=False)
    path = write(tmp_path / "contrast.parquet", CONTRAST, none.to_dict("records"))
    found = select(model, questions, dictionaries, {**tables, "contrast": str(path)}, tmp_path / "s.csv")
    assert found.empty


def as_crosscoders(dictionaries, folder):
    """Save dictionaries whose rows stand for a further model first, with directions of its own."""
    for layer, file in enumerate(dictionaries):
        alone = load_dictionary(Path(file).parent)
        pair = TopKDictionary(k=4, d_model=2 * alone.d_model, d_sae=alone.d_sae)
        with torch.no_grad():
            pair.W_dec.copy_(torch.cat([5 * torch.randn_like(alone.W_dec), alone.W_dec], dim=1))
        save_dictionary(pair, folder / f"layer_{layer}", {})
    return [str(folder / f"layer_{layer}" / "sae_weights.safetensors") for layer in range(len(dictionaries))]


def count_activity(model, questions, dictionaries, folder):
    """Write what features do on the target's questions as if stored activations had told; return the paths.

    Half of it in each of two groups, and more on image tokens, which do not count.
    """
    subject = model.load()
    found = feature_activity(
        subject, questions.evaluations(subject)["spatial"], dictionary_folders(dictionaries, [0, 1, 2]), 0.0
    )
    tokens, files = 1000, {"statistics": [], "totals": []}
    for layer, part in found.groupby("layer"):
        kinds = [(group, kind) for group in "ab" for kind in ("text", "image")]
        rows = [
            {"layer": layer, "feature": one.feature, "group": group, "token_type": kind,
             "fires": round(one.rate * tokens) if kind == "text" else 7,
             "sum_squares": one.energy * tokens if kind == "text" else 7.0}
            for one in part[part["rate"] > 0].itertuples() for group, kind in kinds
        ]  # fmt: skip
        totals = [
            {"layer": layer, "group": group, "token_type": kind, "n_tokens": tokens} for group, kind in kinds
        ]
        written = write_statistics(folder / f"layer_{layer}", rows, totals)
        for name, file in zip(files, written, strict=True):
            files[name].append(str(file))
    return files


def test_a_crosscoder_is_ablated_by_its_rows_of_the_tuned_model(
    model, questions, dictionaries, tables, tmp_path
):
    alone = select(model, questions, dictionaries, tables, tmp_path / "alone.csv")
    pairs = as_crosscoders(dictionaries, tmp_path / "pairs")
    counted = count_activity(model, questions, dictionaries, tmp_path / "counted")
    found = select(model, questions, pairs, tables, tmp_path / "pairs.csv", counted)
    told = ["rule", "size", "draw", "features", "dataset", "group", "available"]
    pd.testing.assert_frame_equal(found[told], alone[told])
    for name in ("delta_margin", "removed", "rate", "energy"):
        np.testing.assert_allclose(found[name], alone[name], atol=1e-3 if name == "rate" else 1e-5)
    assert alone["rate"].max() > 0.05 and alone["energy"].max() > 0.01


def test_what_crosscoders_never_do_counts_too(dictionaries, tmp_path):
    pairs = as_crosscoders(dictionaries[:1], tmp_path / "pairs")
    rows = [{"layer": 0, "feature": 2, "group": "a", "token_type": "text", "fires": 5, "sum_squares": 30.0}]
    totals = [{"layer": 0, "group": "a", "token_type": "text", "n_tokens": 10}]
    files = write_statistics(tmp_path, rows, totals)
    counted = {name: [str(file)] for name, file in zip(NOT_COUNTED, files, strict=True)}
    found = counted_activity(counted, {0: Path(pairs[0]).parent})
    assert found["feature"].tolist() == list(range(len(found))) and len(found) == 48
    assert found.drop(2)[["rate", "energy"]].eq(0).all(axis=None)
    pair = load_dictionary(Path(pairs[0]).parent)
    pair.W_dec.detach()[2, pair.d_model // 2 :] = 0
    save_dictionary(pair, tmp_path / "silent" / "layer_0", {})
    silent = counted_activity(counted, {0: tmp_path / "silent" / "layer_0"})
    # What writes nothing in the tuned model matches nothing, whatever fires it, and cannot be removed.
    assert silent[["rate", "energy"]].eq(0).all(axis=None)
    with pytest.raises(AblationError, match="L0F2: its row is zero for the tuned model"):
        unit_directions({0: tmp_path / "silent" / "layer_0"}, [(0, 2)], crosscoder=True)
    # Rows of the tuned model have unit norm.
    assert found.loc[2, ["layer", "rate", "energy"]].tolist() == pytest.approx([0, 0.5, 3.0])


def ablated_by_hand(model, file, dictionaries, features, scope, samples=20):
    """Return the mean change of the margin over the first samples of a file."""
    subject, some = model.load(), load_samples(file, limit=samples)
    directions = unit_directions(dictionary_folders(dictionaries, [0, 1, 2]), features)
    plan = plan_ablation(subject, directions, features, scope)
    return (answered(subject, some, plan).margin - answered(subject, some).margin).mean()


def test_ratios_are_to_the_last_model_set_by_set_and_group_by_group():
    keys = ["order", "arm", "size", "draw", "dataset", "group", "delta_margin"]
    rows = [
        (0, "selected", 1, 0, "d", "all", -1.0),
        (0, "selected", 1, 0, "d", "left", -3.0),
        (0, "random", 1, 0, "d", "all", 0.5),
        (2, "selected", 1, 0, "d", "all", -4.0),
        (2, "selected", 1, 0, "d", "left", -2.0),
        (2, "random", 1, 0, "d", "all", 0.0),
    ]
    found = transfer_ratios(pd.DataFrame(rows, columns=keys))
    np.testing.assert_allclose(found, [0.25, 1.5, np.nan, 1.0, 1.0, np.nan])


def test_transfer_of_the_same_directions(model, questions, dictionaries, tmp_path):
    final = [(0, 3), (2, 1), (1, 5)]
    files = write_tables(tmp_path, final)
    files = rank_tiny(model, questions, dictionaries, files, tmp_path, scope="all_layers")
    earlier = build_tiny_vlm(tmp_path / "earlier", seed=5)
    models = [ModelFiles("earlier", {"family": "llava"}, str(earlier / "config.json")), model]
    output = tmp_path / "transfer.csv"
    evaluate_transfer(
        models, questions, dictionaries, files, str(output), layers=[0, 1, 2], concept="c",
        features=3, bootstrap=50, massive_ratio=0.0, seed=0,
    )  # fmt: skip
    found = read_table(output, TRANSFER)
    whole = found[(found["group"] == "all") & (found["dataset"] == "spatial")]
    assert whole.groupby(["order", "arm", "size"]).size().to_dict() == {
        (order, arm, size): count
        for order in (0, 1)
        for arm, size, count in (("random", 3, 20), ("selected", 1, 3), ("selected", 3, 1))
    }
    assert dict(zip(whole["order"], whole["model"])) == {0: "earlier", 1: "vlm"}
    for one, order in zip(models, (0, 1)):
        row = whole[(whole["order"] == order) & (whole["arm"] == "selected") & (whole["size"] == 3)].iloc[0]
        expected = ablated_by_hand(one, questions.target, dictionaries, final, "all_layers")
        assert row["delta_margin"] == pytest.approx(expected, abs=1e-5)
    last = whole[whole["order"] == 1]
    np.testing.assert_allclose(last["transfer_margin"], 1.0)
    keys = ["arm", "size", "draw"]
    both = whole[whole["order"] == 0].merge(last, on=keys, suffixes=("", "_last"))
    np.testing.assert_allclose(both["transfer_margin"], both["delta_margin"] / both["delta_margin_last"])
    assert set(both["features"]) == set(both["features_last"])


def test_no_ranked_feature_is_an_empty_table(model, questions, dictionaries, tmp_path):
    files = write_tables(tmp_path, [(0, 3)])
    from vlmdiff.tables.causal import RANKING
    from vlmdiff.tables.io import write_table

    write_table(table(RANKING, []), RANKING, tmp_path / "ranking.csv")
    output = tmp_path / "transfer.csv"
    evaluate_transfer(
        [model], questions, dictionaries, {**files, "ranking": str(tmp_path / "ranking.csv")}, str(output),
        layers=[0, 1, 2], concept="c", features=3, bootstrap=50, massive_ratio=0.0, seed=0,
    )  # fmt: skip
    assert read_table(output, TRANSFER).empty

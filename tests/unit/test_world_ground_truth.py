"""Labels from scene graphs, and scores of features that are known to be such a label."""

from __future__ import annotations

import numpy as np
import pytest
from feature_tables import table, write
from scipy.stats import mannwhitneyu
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.data.samples import load_samples
from vlmdiff.features.auroc import delong_interval
from vlmdiff.tables.features import ADAPTED, CONTRAST, LEXICAL
from vlmdiff.tables.io import conform, read_table, write_table
from vlmdiff.tables.world import GROUND_TRUTH, RULE_QUALITY
from vlmdiff.world.datasets import write_dataset
from vlmdiff.world.ground_truth import (
    PERMUTATIONS,
    areas,
    chance_level,
    evaluate_rules,
    long_scores,
    score_ground_truth,
    score_layer,
    shuffled,
)
from vlmdiff.world.sample_labels import CATEGORIES, SPATIAL, Label, all_labels, named


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        scenes={"train": 50, "validation": 50, "test": 600},
        datasets={
            "spatial": WorldDataset(kind="spatial", scenes="test", samples=400),
            "general": WorldDataset(kind="general", scenes="test", samples=400),
        },
    )
    found = []
    for name in config.datasets:
        write_dataset(config, name, folder / name / "samples.jsonl", folder / name / "images")
        found += load_samples(folder / name / "samples.jsonl")
    return found


@pytest.fixture(scope="module")
def labels(samples):
    return {label.name: label for label in all_labels(samples)}


@pytest.fixture(scope="module")
def datasets(samples):
    return np.array([sample.sample_id.partition("-")[0] for sample in samples])


def test_named_objects_come_in_the_order_of_the_prompt(samples):
    for sample in samples[:50]:
        first, second = named(sample)
        begin = f"the {first['colour']} {first['shape']} is "
        assert sample.prompt.startswith(begin)
        assert sample.prompt.endswith(f"the {second['colour']} {second['shape']} .")


def test_relations_agree_with_truth(samples, labels):
    """A statement with "left of" is true if and only if its first object lies left of the second."""
    lies_left, true = labels["first object left of second"], labels["statement is true"]
    for i, sample in enumerate(samples):
        if sample.group in ("left of", "right of"):
            assert lies_left.among[i]
            assert lies_left.value[i] == (true.value[i] == (sample.group == "left of"))
        assert lies_left.among[i] <= true.among[i]


def test_every_label_has_both_values_and_a_category(labels):
    for label in labels.values():
        inside = label.value[label.among]
        assert min(inside.sum(), (~inside).sum()) >= 20
        assert label.category in CATEGORIES
    assert {label.category for label in labels.values()} == set(CATEGORIES)


def features_of(labels, samples) -> np.ndarray:
    """Feature 0 is a place, 1 a word, 2 noise, 3 silent, 4 the opposite of a truth."""
    rng = np.random.default_rng(0)
    n = len(samples)
    found = np.zeros((n, 5), np.float32)
    found[:, 0] = labels["first object in row top"].value * (1 + rng.random(n))
    found[:, 1] = labels["word 'left'"].value * (1 + rng.random(n))
    found[:, 2] = rng.random(n)
    found[:, 4] = (labels["'above' is true"].among & ~labels["'above' is true"].value) * 2.0
    return found


def test_a_feature_is_called_what_it_is(samples, labels, datasets):
    frame, scores = score_layer(features_of(labels, samples), list(labels.values()), datasets, seed=0)
    best = frame.set_index("feature")
    assert best.loc[0, ["label", "category"]].tolist() == ["first object in row top", "place"]
    assert best.loc[0, "auroc"] > 0.99
    assert best.loc[0, "spatial"]
    assert best.loc[1, ["label", "category"]].tolist() == ["word 'left'", "lexical"]
    assert not best.loc[1, "spatial"]
    assert best.loc[4, "label"] == "'above' is true"
    assert best.loc[4, "auroc"] < 0.01
    assert best.loc[4, "spatial"]
    assert not best.loc[[2, 3], "matches"].any()
    assert list(frame["live"]) == [True, True, True, False, True]
    assert (frame["auroc_low"] <= frame["auroc"] + 1e-12).all()
    conform(frame.assign(layer=0, seed=0), GROUND_TRUTH, "truth")
    long = long_scores(scores, list(labels.values()), frame["live"].to_numpy(), 0)
    assert len(long) == 4 * len(labels)


def test_noise_rarely_beats_chance(samples, labels, datasets):
    noise = np.random.default_rng(1).random((len(samples), 200)).astype(np.float32)
    frame, _ = score_layer(noise, list(labels.values()), datasets, seed=0)
    # Chance is the 95 % quantile; a binomial 99.9 % bound of 200 draws, kinds of prompts aside.
    assert frame["matches"].mean() < 0.12


def test_shuffling_stays_within_data_sets(datasets):
    values = np.arange(len(datasets), dtype=float)[:, None]
    found = shuffled(values, datasets, np.random.default_rng(0))[:, 0].astype(int)
    assert (datasets[found] == datasets).all()
    assert sorted(found) == list(range(len(datasets)))
    assert (found != np.arange(len(datasets))).mean() > 0.9


def test_precision_and_recall(tmp_path):
    # Feature: (spatial, any spatial match, live, energy, adapted, contrast, invariant); energies around eps.
    rows = {
        (0, 0): (True, True, True, 1.0, True, True, True),
        (0, 1): (True, True, True, 0.6, True, True, False),
        (0, 2): (False, True, True, 1.0, True, True, True),
        (0, 3): (False, False, True, 1.0, False, True, None),
        (0, 4): (True, True, True, 0.51, True, False, None),
        (0, 5): (False, False, False, 0.0, False, False, None),
        (2, 1): (False, False, True, 0.5, True, True, True),
        (2, 2): (False, False, True, 0.9, False, True, True),
        (2, 3): (False, False, True, 0.4, False, False, None),
        (2, 4): (False, False, True, 0.9, False, True, True),
    }
    keys = [{"layer": layer, "feature": feature} for layer, feature in rows]
    said = [
        {**key, "spatial": r[0], "spatial_match": r[1], "live": r[2]} for key, r in zip(keys, rows.values())
    ]
    truth = table(GROUND_TRUTH, said)
    write_table(truth, GROUND_TRUTH, tmp_path / "truth.parquet")
    values = list(zip(keys, rows.values()))
    by_rule = [
        {"adapted_percentile": r[4] or k["layer"] == 2, "adapted_calibrated": r[4] and k["layer"] == 0}
        for k, r in values
    ]
    adapted = [{**k, "visual_energy": r[3], "adapted": r[4], **both} for (k, r), both in zip(values, by_rule)]
    contrast = [{**k, "unit": "token", "selected": r[5]} for k, r in values]
    lexical = [{**k, "invariant": r[6]} for k, r in values if r[6] is not None]
    tables = {
        "adapted": write(tmp_path / "a.parquet", ADAPTED, adapted),
        "contrast": write(tmp_path / "c.parquet", CONTRAST, contrast),
        "lexical": write(tmp_path / "l.parquet", LEXICAL, lexical),
    }
    evaluate_rules(tmp_path / "truth.parquet", tables, tmp_path / "q.csv", "space", "token", 0.5, 0)
    found = read_table(tmp_path / "q.csv", RULE_QUALITY)
    best = found[(found["layer"] == -1) & (found["definition"] == "best match")].set_index("rule")
    assert best["selected"].to_dict() == {
        "live": 9, "visual": 7, "adapted": 5, "contrast": 7, "contrast_visual": 6, "contrast_lexical": 4,
        "contrast_adapted": 4, "full": 3, "full_percentile": 5, "full_calibrated": 2,
    }  # fmt: skip
    assert best.loc["full", ["hits", "precision"]].tolist() == [1, 1 / 3]
    assert best.loc["full", "recall"] == pytest.approx(1 / 3)
    # Features 0 and 1 of four that are given and of three that are real.
    assert best.loc["contrast_adapted", ["precision", "recall"]].tolist() == pytest.approx([2 / 4, 2 / 3])
    assert best.loc["contrast_adapted", "f1"] == pytest.approx(2 * 2 / (4 + 3))
    for name, whole in (("precision", 4), ("recall", 3)):
        ends = proportion_confint(2, whole, method="wilson")
        found_ends = best.loc["contrast_adapted", [f"{name}_low", f"{name}_high"]].tolist()
        assert found_ends == pytest.approx(list(ends))
    by_layer = found[found["definition"] == "any match"].set_index(["layer", "rule"])
    assert by_layer.loc[(0, "full"), ["selected", "precision"]].tolist() == [2, 1.0]
    assert by_layer.loc[(2, "full"), ["selected", "precision"]].tolist() == [1, 0.0]


def test_chance_is_a_quantile_of_what_live_features_reach_by_shuffling():
    """Forty samples of two data sets; feature 1 is silent, and the kind of prompt is the data set itself."""
    rng = np.random.default_rng(0)
    datasets = np.repeat(["a", "b"], 20)
    every = np.ones(40, bool)
    tried = [
        Label("x", "place", every, rng.random(40) < 0.5),
        Label("y", "truth", every, rng.random(40) < 0.3),
    ]
    kind = Label("kind", "kind", every, datasets == "a")
    activations = np.stack([rng.random(40) + 5 * (datasets == "a"), np.zeros(40), rng.random(40)], axis=1)
    live = np.array([True, False, True])
    found = chance_level(activations, [*tried, kind], datasets, live, seed=3)
    again, reached = np.random.default_rng(3), []
    for _ in range(PERMUTATIONS):
        order = np.arange(40)
        for rows in (np.arange(20), np.arange(20, 40)):
            order[rows] = again.permutation(rows)
        for feature in (0, 2):
            values = activations[order, feature]
            areas = [
                mannwhitneyu(values[one.value], values[~one.value]).statistic
                / one.value.sum()
                / (~one.value).sum()
                for one in tried
            ]
            reached.append(max(abs(area - 0.5) for area in areas))
    assert found == pytest.approx(np.quantile(reached, 0.95))


def test_labels_are_scored_among_their_own_samples():
    among = np.array([True] * 6 + [False] * 4)
    value = np.array([True, True, True, False, False, False] + [True] * 4)
    activation = np.array([[3.0, 2.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0]]).T
    # Of nine pairs the three true ones win 3 + 3 + 2.
    assert areas(activation, [Label("x", "place", among, value)])[0, 0] == pytest.approx(8 / 9)


def test_a_feature_that_tells_a_word_best_is_not_spatial_though_a_place_matches():
    """Sixty samples: the word is told perfectly, the place well, a third label not at all."""
    rng = np.random.default_rng(0)
    word = np.arange(60) < 30
    place = np.where(rng.random(60) < 0.9, word, ~word)
    other = np.arange(60) % 2 == 0
    among = np.ones(60, bool)
    few = np.arange(60) % 3 > 0
    labels = [
        Label("word", "lexical", among, word),
        Label("weak", "place", among, other),
        Label("place", "place", few, place),
    ]
    activations = np.stack([word * (1 + rng.random(60)), rng.random(60), np.zeros(60)], axis=1)
    frame, found = score_layer(activations, labels, np.array(["d"] * 60), seed=0)
    first = frame.iloc[0]
    assert (first["label"], first["spatial_label"], first["matches"], first["spatial"]) == (
        "word",
        "place",
        True,
        False,
    )
    assert first["spatial_match"]
    assert first["best_place"] == pytest.approx(0.5 + abs(found[2, 0] - 0.5))
    assert first["spatial_auroc"] == found[2, 0]
    assert not frame.loc[2, ["live", "matches", "spatial_match"]].any()
    # Intervals are of the label's own samples.
    own = frame.iloc[1]
    assert 0 < abs(own["spatial_auroc"] - 0.5) < own["chance"] and not own["spatial_match"]
    among_best = {label.name: label.among for label in labels}[own["label"]]
    value = {label.name: label.value for label in labels}[own["label"]]
    ends = delong_interval(activations[among_best, 1], value[among_best])
    assert (own["auroc_low"], own["auroc_high"]) == pytest.approx(ends)
    long = long_scores(found, labels, frame["live"].to_numpy(), 0).set_index(["feature", "label"])
    assert long.loc[(1, "place"), "auroc"] == found[2, 1] and len(long) == 6


def test_without_a_spatial_label_nothing_is_spatial():
    among, word = np.ones(60, bool), np.arange(60) < 30
    activations = np.stack([word * 1.0, np.arange(60) % 2], axis=1)
    frame, _ = score_layer(activations, [Label("word", "lexical", among, word)], np.array(["d"] * 60), seed=0)
    assert frame["label"].tolist() == ["word", "word"] and frame["matches"].tolist() == [True, False]
    assert frame["spatial_label"].tolist() == ["", ""] and frame["spatial_auroc"].tolist() == [0.5, 0.5]
    assert not frame[["spatial", "spatial_match"]].any(axis=None)


def test_samples_too_few_for_any_label_are_refused(tmp_path):
    few = WorldDataset(kind="spatial", scenes="test", samples=8)
    config = WorldConfig(scenes={"train": 50, "validation": 50, "test": 50}, datasets={"few": few})
    file = tmp_path / "samples.jsonl"
    write_dataset(config, "few", file, tmp_path / "images")
    with pytest.raises(ValueError, match="the 8 samples of few are too few: .* raise their `samples`"):
        score_ground_truth({"few": file}, {}, {}, (tmp_path / "a", tmp_path / "b"), 0, 0)


def test_spatial_categories_are_the_ones_that_need_the_image():
    assert set(SPATIAL) == {"place", "relation", "truth"}

"""Labels from scene graphs, and scores of features that are known to be such a label."""

from __future__ import annotations

import numpy as np
import pytest
from feature_tables import table, write
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.data.samples import load_samples
from vlmdiff.tables.features import ADAPTED, CONTRAST, LEXICAL
from vlmdiff.tables.io import conform, read_table, write_table
from vlmdiff.tables.world import GROUND_TRUTH, RULE_QUALITY
from vlmdiff.world.datasets import write_dataset
from vlmdiff.world.ground_truth import evaluate_rules, long_scores, score_layer, shuffled
from vlmdiff.world.labels import CATEGORIES, SPATIAL, all_labels, named


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
    frame, areas = score_layer(features_of(labels, samples), list(labels.values()), datasets, seed=0)
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
    long = long_scores(areas, list(labels.values()), frame["live"].to_numpy(), 0)
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
    # Feature: (spatial, any spatial match, live, energy, adapted, contrast, invariant).
    rows = {
        0: (True, True, True, 1.0, True, True, True),
        1: (True, True, True, 1.0, True, True, False),
        2: (False, True, True, 1.0, True, True, True),
        3: (False, False, True, 1.0, False, True, None),
        4: (True, True, True, 1.0, True, False, None),
        5: (False, False, False, 0.0, False, False, None),
    }
    keys = [{"layer": 0, "feature": feature} for feature in rows]
    said = [
        {**key, "spatial": r[0], "spatial_match": r[1], "live": r[2]} for key, r in zip(keys, rows.values())
    ]
    truth = table(GROUND_TRUTH, said)
    write_table(truth, GROUND_TRUTH, tmp_path / "truth.parquet")
    values = list(zip(keys, rows.values()))
    adapted = [{**k, "visual_energy": r[3], "adapted": r[4]} for k, r in values]
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
        "live": 5, "visual": 5, "adapted": 4, "contrast": 4, "contrast_visual": 4, "contrast_lexical": 2,
        "contrast_adapted": 3, "full": 2,
    }  # fmt: skip
    assert best.loc["full", ["hits", "precision"]].tolist() == [1, 0.5]
    assert best.loc["full", "recall"] == pytest.approx(1 / 3)
    assert best.loc["contrast_adapted", "f1"] == pytest.approx(2 * 2 / (3 + 3))
    low, high = proportion_confint(2, 3, method="wilson")
    assert best.loc["contrast_adapted", ["precision_low", "precision_high"]].tolist() == pytest.approx(
        [low, high]
    )
    loose = found[(found["layer"] == 0) & (found["definition"] == "any match")].set_index("rule")
    assert loose.loc["full", "precision"] == 1.0


def test_spatial_categories_are_the_ones_that_need_the_image():
    assert set(SPATIAL) == {"place", "relation", "truth"}

"""Crosscoders and latent scaling: what the config refuses, and what is read of what."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_experiment import put

from vlmdiff.config.entries import benchmarks, method_entries
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.paths import Paths
from vlmdiff.config.storage import planned_series, readers, stored_tokens

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
CROSSCODER = DEFAULT["dictionaries"]["crosscoder"]
COMPARISON = DEFAULT["comparisons"]["crosscoder"]
BUDGET = {"steps": 1500, "learning_rate": 2.0e-3, "architecture": CROSSCODER["architecture"]}
PUBLISHED = {"source": "scopes", "format": "crosscoder", "file": "layer_{layer}.pt", "base_model": "base_lm"}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(DEFAULT)
    for path, value in changes.items():
        put(values, path, value)
    return values


REFUSED = {
    "image tokens": (
        {"dictionaries.crosscoder.tokens": ["text", "image"]},
        r"dictionaries.crosscoder.tokens: found \['text', 'image'\], expected \[text\]",
    ),
    "one model twice": (
        {"dictionaries.crosscoder.base_model": "vlm"},
        "dictionaries.crosscoder.base_model: found 'vlm', which is `model` too",
    ),
    "an unknown model": (
        {"dictionaries.crosscoder.base_model": "nobody"},
        "dictionaries.crosscoder.base_model: unknown model 'nobody'",
    ),
    "models of different widths": (
        {
            "models.base_lm.planned": {"d_model": 64},
            "models.vlm.planned": {"d_model": 128},
            "comparisons.drift": None,
            "scoreboard.methods.drift": None,
        },
        r"dictionaries.crosscoder: models of different widths are planned, \{'base_lm': 64, 'vlm': 128\}",
    ),
    "a start from a dictionary of one model": (
        {"dictionaries.crosscoder": {**CROSSCODER, "initial": "base"}},
        "dictionaries.crosscoder.initial: found 'base', which reads one of the models, expected one that",
    ),
    "a dictionary that starts from a crosscoder": (
        {"dictionaries.scratch": {**DEFAULT["dictionaries"]["scratch"], "initial": "crosscoder"}},
        "dictionaries.scratch.initial: found 'crosscoder', which reads two of the models",
    ),
    "a crosscoder as adapted dictionary": (
        {"comparisons.scratch.adapted": "crosscoder"},
        "comparisons.scratch.adapted: found 'crosscoder', which reads two models",
    ),
    "a crosscoder as null": (
        {"diff.null": "crosscoder_text"},
        "diff.null: found 'crosscoder_text', which reads two models",
    ),
    "a crosscoder in the stage grid": (
        {"stages.grid.data": "crosscoder"},
        "stages.grid.data",
    ),
    "a crosscoder that is scored": (
        {"evaluation": [{"dictionaries": ["crosscoder"], "model": "vlm", "dataset": "general_val"}]},
        "evaluation.0.dictionaries: found 'crosscoder', which reads two models",
    ),
    "the main comparison": (
        {"diff.method": "crosscoder", "diff.adapted": "crosscoder", "diff.base": "crosscoder"},
        "diff.method: found 'crosscoder', expected 'rotation'",
    ),
    "another target": (
        {"comparisons.crosscoder.target": "sensitivity"},
        "comparisons.crosscoder.target: found 'sensitivity' with `method: crosscoder`",
    ),
    "a base": (
        {"comparisons.crosscoder.base": "base"},
        "comparisons.crosscoder.base: found 'base' with `method: crosscoder`",
    ),
    "a model before tuning": (
        {"comparisons.crosscoder.base_model": "lm_continued"},
        "comparisons.crosscoder.base_model: found 'lm_continued' with `method: crosscoder`",
    ),
    "the model before tuning as the one after it": (
        {"comparisons.mine": {**COMPARISON, "model": "base_lm", "rule": "energy"}},
        "comparisons.mine.model: found 'base_lm', which is the `base_model` of 'crosscoder' too",
    ),
    "a decoder that is frozen": (
        {"dictionaries.crosscoder.decoder": "frozen", "dictionaries.crosscoder_text.decoder": "frozen"},
        "comparisons.crosscoder.rule: found 'calibrated' with a decoder that is frozen",
    ),
    "a published null of another base model": (
        {
            "dictionaries.theirs": {**PUBLISHED, "base_model": "lm_continued", "budget": BUDGET},
            "comparisons.mine": {**COMPARISON, "null": "theirs"},
        },
        "dictionaries.theirs.base_model: found 'lm_continued', expected 'base_lm' as in 'crosscoder'",
    ),
    "no dictionary": (
        {"comparisons.mine": {**COMPARISON, "adapted": None}},
        "comparisons.mine.adapted: missing, expected a dictionary with `base_model`",
    ),
    "a dictionary of one model": (
        {"comparisons.mine": {**COMPARISON, "null": "scratch"}},
        "comparisons.mine.null: found 'scratch', which reads one model",
    ),
    "a null that is compared too": (
        {"comparisons.mine": {**COMPARISON, "null": "crosscoder"}},
        "comparisons.mine.null: found 'crosscoder', which is `adapted` too",
    ),
    "a base model that saw images": (
        {"dictionaries.crosscoder.base_model": "vlm_25"},
        r"dictionaries.crosscoder.base_model: found 'vlm_25', a model that was tuned with images.*crosscoder",
    ),
    "a null of another base model": (
        {
            "dictionaries.crosscoder_text.base_model": "lm_continued",
            "dictionaries.crosscoder_text.model": "base_lm",
        },
        "dictionaries.crosscoder_text.base_model: found 'lm_continued', expected 'base_lm' as in",
    ),
    "a null that saw images": (
        {"dictionaries.crosscoder_text.model": "vlm_50"},
        "dictionaries.crosscoder_text.model: found 'vlm_50', a model that was tuned with images",
    ),
    "another budget": (
        {"dictionaries.crosscoder_text.steps": 100},
        "dictionary 'crosscoder_text' is not trained as 'crosscoder' is.*steps 100 against 1500",
    ),
    "another model than the dictionary's": (
        {"comparisons.mine": {**COMPARISON, "model": "vlm_50"}},
        "comparisons.mine.model: found 'vlm_50', but its adapted dictionary 'crosscoder' is",
    ),
    "a published one without its base model": (
        {"dictionaries.theirs": {**PUBLISHED, "base_model": None}},
        "base_model: found None with format crosscoder",
    ),
    "a base model of another format": (
        {"dictionaries.theirs": {**PUBLISHED, "format": "mmdiff"}},
        "base_model: found 'base_lm' with format mmdiff",
    ),
    "latent scaling in the model itself": (
        {"diff.base_model": "vlm"},
        "diff.base_model: found 'vlm', which is `model` too, expected the model before tuning",
    ),
    "latent scaling in a model that saw images": (
        {"comparisons.scratch.base_model": "vlm_50"},
        "comparisons.scratch.base_model: found 'vlm_50', a model that was tuned with images",
    ),
    "latent scaling in a model of another width": (
        {
            "models.lm_continued.planned": {"d_model": 64},
            "models.vlm.planned": {"d_model": 128},
            "diff.base_model": "lm_continued",
            "comparisons.drift": None,
            "scoreboard.methods.drift": None,
        },
        r"diff.base_model: models of different widths are planned",
    ),
    "a sparsity warm-up": (
        {"dictionaries.crosscoder.sparsity_warmup": 0.1},
        "dictionaries.crosscoder.sparsity_warmup: found 0.1, but only JumpReLU.*architecture is batch_topk",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case):
    changes, words = REFUSED[case]
    values = changed({path: value for path, value in changes.items() if value is not None})
    for path in (path for path, value in changes.items() if value is None):
        section = values
        *parents, name = path.split(".")
        for parent in parents:
            section = section[parent]
        del section[name]
    with pytest.raises(ConfigError, match=words):
        load_config(values)


@pytest.fixture(scope="module")
def config():
    return load_config(DEFAULT)


def test_a_crosscoder_reads_the_model_before_tuning_first(config):
    found = Paths(config).read_by("crosscoder", "vlm", "vqa_train")
    models = [path.split("/")[3] for path in found[2]]
    assert sorted(models) == models and set(models) == {"base_lm", "vlm"}
    assert Paths(config).read_by("adapted", "vlm", "vqa_train")[2] == Paths(config).shards(
        "vlm", "vqa_train", 2
    )


def test_what_it_reads_is_stored_of_both_models(config):
    read = {(stage, model, dataset) for stage, model, dataset, _ in readers(config)}
    for model in ("base_lm", "vlm"):
        assert ("pairing", model, "vqa_train") in read
        for dataset in ("general_val", "spatial_val", "text_val"):
            assert ("statistics", model, dataset) in read
        assert ("ground truth", model, "spatial_test") in read
    default = {(stage, model, dataset) for stage, model, dataset, _ in readers(config, every=False)}
    assert ("ground truth", "base_lm", "spatial_test") not in default
    # Latent scaling is of the default run.
    assert ("statistics", "base_lm", "spatial_val") in default


def test_what_it_pairs_is_stored_also_where_other_trainings_take_streams():
    config = load_config(changed({"extraction.store": "stream"}))
    assert (
        stored_tokens(config, "vlm", "vqa_train") == stored_tokens(config, "base_lm", "vqa_train") == ["text"]
    )
    assert stored_tokens(config, "base_lm", "text_null") == []
    # The default run trains none.
    assert "vqa_train" not in {one.dataset for one in planned_series(config)}


def test_it_is_its_own_base_and_is_ablated(config):
    diff = config.comparison("crosscoder")
    assert (diff.base, diff.adapted, diff.null) == ("crosscoder", "crosscoder", "crosscoder_text")
    assert diff.null_check is None and diff.base_model is None
    mine = [one for one in method_entries(config, "results/x") if one["method"] == "crosscoder"]
    assert len(mine) == 9
    assert {one["selection"] for one in mine if one["seed"] == 2} == {
        f"results/x/interventions/comparisons/crosscoder/seed_2/{concept}/selection.csv"
        for concept in ("spatial", "truth_grounded", "spatial_grounded")
    }
    found = benchmarks(config, "crosscoder", "spatial_grounded", 1)
    trained = [one for one in found if one.startswith("train_dictionary")]
    assert trained == [
        "train_dictionary/crosscoder/seed_1/*.tsv",
        "train_dictionary/crosscoder_text/seed_1/*.tsv",
    ]


def test_latent_scaling_is_asked_for_by_each_comparison(config):
    assert config.diff.base_model == "base_lm"
    assert config.comparison("scratch").base_model is None
    own = load_config(changed({"comparisons.scratch.base_model": "base_lm"}))
    assert own.comparison("scratch").base_model == "base_lm"


def test_a_published_crosscoder_is_known(tmp_path):
    values = changed({"dictionaries.theirs": {**PUBLISHED, "budget": BUDGET}})
    put(values, "comparisons.theirs", {**COMPARISON, "adapted": "theirs"})
    assert load_config(values).comparison("theirs").base == "theirs"


def test_crosscoders_may_be_matryoshka_if_their_null_is():
    nested = {**CROSSCODER["architecture"], "kind": "matryoshka", "prefixes": [128, 0.5]}
    names = [one for one in DEFAULT["dictionaries"] if one.startswith("crosscoder")]
    config = load_config(changed({f"dictionaries.{one}.architecture": nested for one in names}))
    assert config.shape("crosscoder").prefixes == [128, 0.5]
    with pytest.raises(ConfigError, match=r"prefixes \[256, 1024\] against \[128, 512, 1024\]"):
        others = {"dictionaries.crosscoder_text.architecture": {**nested, "prefixes": [256]}}
        load_config(changed({f"dictionaries.{one}.architecture": nested for one in names} | others))

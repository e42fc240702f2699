"""Drifts and the scoreboard: what the config refuses, what is read of what, and what is scored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_experiment import put

from vlmdiff.config.entries import benchmarks, control_entries, method_entries, submission_entries
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.products import scoreboard_products
from vlmdiff.config.scoreboard import explain_unscored
from vlmdiff.config.storage import readers
from vlmdiff.scoreboard.submission_problems import submission_problems

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
DRIFT = {"target": "scoreboard", "about": "a drift", "method": "drift", "null_model": "lm_continued"}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(DEFAULT)
    for path, value in changes.items():
        put(values, path, value)
    return values


REFUSED = {
    "a drift as the main comparison": (
        {"diff.method": "drift", "diff.null_model": "lm_continued"},
        "diff.method: found 'drift', expected 'rotation'",
    ),
    "a drift without a null": (
        {"comparisons.mine": {**DRIFT, "null_model": None}},
        "comparisons.mine.null_model: missing; expected a model that was tuned on text alone",
    ),
    "a drift with a dictionary": (
        {"comparisons.mine": {**DRIFT, "adapted": "adapted"}},
        "comparisons.mine.adapted: found 'adapted' with `method: drift`",
    ),
    "a drift with a null dictionary": (
        {"comparisons.mine": {**DRIFT, "null": "null_text"}},
        "comparisons.mine.null: found 'null_text' with `method: drift`",
    ),
    "a null that saw images": (
        {"comparisons.mine": {**DRIFT, "null_model": "vlm_50"}},
        "comparisons.mine.null_model: found 'vlm_50', a model that was tuned with images",
    ),
    "a null that is the model before tuning": (
        {"comparisons.mine": {**DRIFT, "null_model": "base_lm"}},
        "comparisons.mine.null_model: found 'base_lm', which is the model before tuning",
    ),
    "a drift of nothing": (
        {"comparisons.mine": {**DRIFT, "model": "base_lm"}},
        "comparisons.mine.model: found 'base_lm', which is the model before tuning",
    ),
    "a null that is what is compared": (
        {"comparisons.mine": {**DRIFT, "model": "lm_continued"}},
        "comparisons.mine.null_model: found 'lm_continued', which is the model that is compared",
    ),
    "a model that nobody reads": (
        {"comparisons.mine": {"target": "scoreboard", "about": "x", "null_model": "lm_continued"}},
        "comparisons.mine.null_model: found 'lm_continued' with `method: rotation`",
    ),
    "a model of a drift where there is none": (
        {"diff.null_model": "lm_continued"},
        "diff.null_model: found 'lm_continued', but only a comparison with `method: drift` reads it",
    ),
    "an unknown model": (
        {"comparisons.mine": {**DRIFT, "null_model": "nobody"}},
        "comparisons.mine.null_model: unknown model 'nobody'",
    ),
    "an unknown comparison": (
        {"scoreboard.methods.mine": {"comparison": "nobody"}},
        "scoreboard.methods.mine.comparison: unknown comparison 'nobody'",
    ),
    "an unknown control": (
        {"scoreboard.methods.mine": {"controls": ["nobody"]}},
        "scoreboard.methods.mine.controls: unknown comparison 'nobody'",
    ),
    "a comparison of another model": (
        {"scoreboard.methods.mine": {"comparison": "shuffled_images"}},
        "scoreboard.methods.mine.comparison: found 'shuffled_images' of model 'vlm_shuffled'",
    ),
    "a control that is no control": (
        {"scoreboard.methods.mine": {"controls": ["scratch"]}},
        "scoreboard.methods.mine.controls: found 'scratch' of model 'vlm'",
    ),
    "a control of another method": (
        {"scoreboard.methods.mine": {"controls": ["drift_shuffled"]}},
        "scoreboard.methods.mine.controls: found 'drift_shuffled', whose method is drift, expected rotation",
    ),
    "a control that sets the threshold": (
        {
            "comparisons.mine": {**DRIFT, "model": "lm_continued", "null_model": "vlm_untuned"},
            "scoreboard.methods.mine": {"comparison": "drift", "controls": ["mine"]},
        },
        "controls: found 'mine' of model 'lm_continued', which is the null of 'drift'",
    ),
    "more seeds than there are": ({"scoreboard.seeds": 4}, "scoreboard.seeds: found 4, expected at most 3"),
    "a drift from another model than the dictionary's": (
        {"comparisons.mine": {**DRIFT, "base_model": "lm_continued", "null_model": "vlm_untuned"}},
        "comparisons.mine.base_model: found 'lm_continued', but dictionary 'base' is trained on 'base_lm'",
    ),
    "a drift from a model that saw images": (
        {"comparisons.mine": {**DRIFT, "base": "scratch", "model": "vlm_50"}},
        "comparisons.mine.base: found 'scratch' of a model that was tuned with images ('vlm')",
    ),
    "models of different widths": (
        {
            "models.lm_continued.planned": {"d_model": 64},
            "models.vlm.planned": {"d_model": 128},
            "comparisons.mine": DRIFT,
        },
        "models of different widths are planned",
    ),
    "seconds that are none": (
        {"scoreboard.submissions.mine": {"file": "x.csv", "seconds": True}},
        "scoreboard.submissions.mine.seconds",
    ),
    "an unknown concept": (
        {"scoreboard.concepts": ["nothing"]},
        "scoreboard.concepts: unknown concept 'nothing'",
    ),
    "one name for two": (
        {"scoreboard.submissions.rotation": {"file": "x.csv"}},
        "scoreboard.submissions: ['rotation'] are names of methods too",
    ),
    "a key that there is not": (
        {"scoreboard.submissions.mine": {"path": "x.csv"}},
        "scoreboard.submissions.mine",
    ),
}


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused(changes, told):
    with pytest.raises(ConfigError) as error:
        load_config(changed(changes))
    assert told in str(error.value)


@pytest.fixture(scope="module")
def config():
    return load_config(DEFAULT)


def test_a_drift_reads_all_models_by_the_base_dictionary(config):
    diff = config.comparison("drift")
    assert (diff.method, diff.base, diff.adapted, diff.null_check) == ("drift", "base", "base", None)
    for model in ("vlm", "base_lm", "lm_continued"):
        for dataset in config.diff.visual_datasets:
            assert ("statistics", model, dataset, ("text",)) in set(readers(config))
    # The default run stores nothing for it.
    assert not any(model == "lm_continued" for _, model, _, _ in readers(config, every=False))


def test_a_drift_trains_nothing(config):
    without = {name: one for name, one in DEFAULT["comparisons"].items() if not name.startswith("drift")}
    methods = {name: one for name, one in DEFAULT["scoreboard"]["methods"].items() if name != "drift"}
    other = load_config(changed({"comparisons": without, "scoreboard.methods": methods}))
    assert other.default_dictionaries() == config.default_dictionaries()
    assert not any("train_dictionary" in one for one in benchmarks(config, "drift", "spatial", 0))
    assert "feature_statistics/base/seed_0/lm_continued/spatial_val/*.tsv" in benchmarks(
        config, "drift", "spatial", 0
    )


def test_every_method_concept_and_seed_is_scored(config):
    entries = method_entries(config, "results/x")
    cases = {(one["method"], one["concept"], one["seed"]) for one in entries}
    assert len(cases) == len(entries) == len(config.scoreboard.methods) * 3 * 3
    drift = next(one for one in entries if (one["method"], one["seed"]) == ("drift", 2))
    assert drift["scores"] == "results/x/scoreboard/scores/drift/seed_2/spatial.csv"
    assert drift["recurrence"] == "results/x/scoreboard/recurrence/drift/spatial.csv"
    rotation = next(one for one in entries if one["method"] == "rotation")
    assert rotation["recurrence"] == "results/x/features/main/recurrence/spatial.csv"
    assert {"train_dictionary/adapted/seed_0/*.tsv", "contrast_*/main/seed_0/spatial.tsv"} <= set(
        rotation["benchmarks"]
    )
    found = {(one["method"], one["control"]) for one in control_entries(config, "results/x")}
    assert ("rotation", "no_spatial") in found and ("drift", "drift_shuffled") in found


WITHOUT = {
    "one": ({"scoreboard": "none"}, "this configuration has no `scoreboard`"),
    "scene graphs": (
        {"ablation": "none", "heads": "none", "steering": "none", "stages.models": []},
        "needs the scene graphs of the built-in world",
    ),
}


@pytest.mark.parametrize(("changes", "told"), WITHOUT.values(), ids=WITHOUT)
def test_a_config_without_a_scoreboard_makes_none_and_says_why(changes, told):
    config = load_config(changed(changes))
    assert told in explain_unscored(config)
    assert scoreboard_products(config) == []
    assert (
        method_entries(config, "x") == control_entries(config, "x") == submission_entries(config, "x") == []
    )


def submitted(tmp_path, text: str | None, **more):
    file = tmp_path / "scores.csv"
    if text is not None:
        file.write_text(text)
    return load_config(changed({"scoreboard.submissions.mine": {"file": str(file), **more}}))


def test_a_submission_is_scored_with_its_controls(tmp_path):
    control = tmp_path / "control.csv"
    # Its lines are counted alone: features may be those of any dictionary.
    control.write_text("layer,feature,score\n0,5000,2\n")
    config = submitted(tmp_path, "layer,feature,score\n0,1,2\n", controls={"text": str(control)}, seconds=3)
    (entry,) = submission_entries(config, "results/x")
    assert entry["scores"] == "results/x/scoreboard/submissions/mine.csv" and entry["seconds"] == 3
    assert control_entries(config, "results/x")[-1]["file"] == str(control)
    assert list(submission_problems(config, lambda file: False)) == []
    control.write_text("layer,feature,score\n")
    assert list(submission_problems(config, lambda file: False)) == []
    control.write_text("layer,feature,score\n9,1,2\n")
    (line,) = submission_problems(config, lambda file: False)
    assert line.startswith("scoreboard.submissions.mine.controls.text: ") and "layer: found 9" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "; expected a CSV of scores"),
        ("layer,score\n0,1\n", "found the columns layer, score"),
        ("layer,feature,score,seed\n0,1,2,3\n", "seed: found 3, expected 0 to 2"),
        ("layer,feature,score\n0,1024,2\n", "feature: found 1024, expected 0 to 1023"),
        ("layer,direction,score\n0,1 0 0,2\n", "direction: found 3 numbers, expected 128, the model's width"),
    ],
)
def test_a_file_of_scores_is_looked_at_before_anything_runs(tmp_path, text, told):
    config = submitted(tmp_path, text)
    (line,) = submission_problems(config, lambda file: False)
    assert line.startswith("scoreboard.submissions.mine.file: ") and told in line
    # Of a file that a rule makes nothing is known yet.
    assert list(submission_problems(config, lambda file: True)) == []

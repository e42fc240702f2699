"""Stages can be left out: what is planned without them, what is refused, what a target of one is told."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny
from dry_runs import DryRuns

from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.omitted import RULES, omitted, omitted_rules
from vlmdiff.config.plan import plan
from vlmdiff.config.schema import Config, references
from vlmdiff.config.storage import planned_series

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
# The others never need the lexical filter.
COUNTED = {name: one for name, one in DEFAULT["concepts"].items() if "contrast" not in one}
TARGETS = ("all", "controls", "stages", "sensitivity")
# Rules whose jobs disappear, by hand; all others stay as they are.
HEADS = {
    "attribute_heads", "aggregate_heads", "patch_heads", "evaluate_head_ablation", "map_attention",
    "plot_head_attribution", "plot_attribution_vs_exact", "plot_head_ablation", "plot_attention_map",
}  # fmt: skip
STEERING = {"evaluate_steering", "plot_steering"}
SCORES = {"evaluate_dictionary", "plot_fvu_by_layer", "plot_training_dynamics"}
CAUSAL = {
    "hold_out", "evaluate_model", "rank_features", "evaluate_ablation", "evaluate_selection",
    "evaluate_transfer", "score_ground_truth", "evaluate_rules", "plot_ablation_effects",
    "plot_ablation_by_group", "plot_selection_rules", "plot_transfer", "plot_ground_truth",
}  # fmt: skip
CHOSEN = {"read_chosen", "rank_chosen", "ablate_chosen"}
WITHOUT_CAUSAL = tiny.WITHOUT_ABLATION | tiny.untransferred()


@pytest.fixture(scope="module")
def runs():
    """Dry runs in the project's folder."""
    with DryRuns(ROOT) as found:
        yield found


@pytest.fixture(scope="module")
def planned(runs, tmp_path_factory):
    """A function that returns the jobs of each rule, given the sections that the tiny experiment changes."""
    folder = tmp_path_factory.mktemp("configs")

    def jobs(**changes) -> dict[str, int]:
        file = folder / "config.yaml"
        # Not the name of the tiny experiment, whose results may lie in the folder.
        file.write_text(yaml.safe_dump(tiny.tiny(experiment="nowhere", **changes), sort_keys=False))
        return runs.plan(*TARGETS, "--configfile", str(file)).jobs

    return jobs


@pytest.fixture(scope="module")
def whole(planned) -> dict[str, int]:
    """The jobs of each rule if nothing is left out."""
    return planned()


@pytest.mark.parametrize(
    ("changes", "gone", "fewer"),
    [
        ({"heads": "none"}, HEADS, set()),
        # The filter keeps every candidate in its job.
        pytest.param(
            {"steering": None, "evaluation": "None", **tiny.unfiltered()},
            STEERING | SCORES,
            set(),
            marks=pytest.mark.long,
        ),
    ],
    ids=["heads", "steering, evaluation and lexical"],
)
def test_a_stage_that_is_left_out_has_no_jobs_and_others_have_theirs(planned, whole, changes, gone, fewer):
    found = planned(**changes)
    assert whole.keys() - found.keys() == gone and gone <= whole.keys()
    assert {rule for rule in found if found[rule] != whole[rule]} == fewer


def test_without_ablation_all_concepts_are_studied_as_far_as_they_can_be(planned, whole):
    found = planned(**WITHOUT_CAUSAL)
    assert whole.keys() - found.keys() == CAUSAL | HEADS | STEERING
    # Five concepts, two seeds.
    assert (whole["label_features"], found["label_features"]) == (2, 10)
    assert (
        found["plot_top_samples"]
        == found["collect_gallery"]
        == found["plot_recurrence"]
        == found["match_seeds"]
        == 5
    )
    # Main, scratch, never tuned, and one comparison for each of three targets; main has two seeds.
    assert found["select_features"] == 5 * (2 + 1 + 1 + 3)
    assert found["summarise_comparisons"] == found["plot_comparisons"] == 5 * 3
    assert found["compare_stages"] == found["write_summary"] == found["plot_model_accuracy"] == 1


def test_with_everything_left_out_the_diff_remains(planned):
    found = planned(**WITHOUT_CAUSAL, **tiny.unfiltered(), evaluation="none")
    assert not set(found) & (CAUSAL | HEADS | STEERING | SCORES)
    assert {"train_dictionary", "select_adapted", "select_features", "write_summary", "plot_funnel"} <= set(
        found
    )


def changed(**changes) -> dict:
    return copy.deepcopy(DEFAULT) | changes


def nothing_transferred() -> dict:
    return {"stages": {name: one for name, one in DEFAULT["stages"].items() if name != "models"}}


def refused(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(values)
    return str(error.value)


@pytest.mark.parametrize("word", ["none", "None", " NONE ", None])
@pytest.mark.parametrize("key", ["heads", "steering", "labelling", "evaluation"])
def test_the_word_none_in_any_case_leaves_a_stage_out(key, word):
    found = load_config(changed(**{key: word}))
    assert not getattr(found, key)
    # What is absent is filled in before the schema is asked; at its level it is left out.
    values = changed()
    values.pop(key, None)
    assert Config.model_validate(values) == found


@pytest.mark.parametrize("key", ["diff", "concepts", "dictionaries", "models", "experiment"])
def test_what_an_experiment_is_about_cannot_be_left_out(key):
    values = changed()
    del values[key]
    assert f"{key}: Field required" in refused(values)


def test_what_reads_the_ranking_of_ablation_needs_it():
    said = refused(changed(ablation="none"))
    for key, advice in (
        ("heads", "write `heads: none`, or fill in `ablation`"),
        ("steering", "write `steering: none`, or fill in `ablation`"),
        ("stages.models", "leave stages.models out, or fill in `ablation`"),
    ):
        (line,) = [one for one in said.splitlines() if f"{key}: needs" in one]
        assert "needs `ablation`, which is none" in line and line.endswith(advice)
    assert load_config(changed(**tiny.WITHOUT_ABLATION, **nothing_transferred())).ablation is None


@pytest.mark.parametrize("lexical", ["none", None, {"samples": 3}])
def test_prompts_are_needed_where_the_filter_runs(lexical):
    said = refused(changed(lexical=lexical))
    # Of the default configuration's concepts some do without the filter.
    found = {line.split(".")[1] for line in said.splitlines() if "needs `lexical.prompts`" in line}
    wanted = {name for name, one in COUNTED.items() if one.get("lexical", True)}
    assert found == wanted and 0 < len(found) < len(DEFAULT["concepts"])
    assert "or `lexical: false` for concept 'spatial'" in said
    concepts = {name: {**one, "lexical": False} for name, one in DEFAULT["concepts"].items()}
    assert load_config(changed(lexical=lexical, concepts=concepts)).lexical.prompts == []


def test_a_stage_that_is_left_out_uses_no_data_and_reports_on_none():
    whole, left = (
        load_config(changed()),
        load_config(changed(**tiny.WITHOUT_ABLATION, **nothing_transferred())),
    )
    gone = {key for _, key, _ in references(whole)} - {key for _, key, _ in references(left)}
    assert {key.split(".")[0] for key in gone} == {"ablation", "heads", "steering", "stages"}
    assert not any("report_on" in key for _, key, _ in references(left))
    # The test data, whose scene graphs are known, are not stored; all else is.
    assert {one.dataset for one in planned_series(whole)} - {one.dataset for one in planned_series(left)} == {
        "spatial_test",
        "general_test",
    }
    assert "spatial_test" in plan(whole) and "spatial_test" not in plan(left)


def test_concepts_that_are_studied_are_the_ablated_ones_or_all():
    assert load_config(changed()).studied_concepts() == DEFAULT["ablation"]["concepts"]
    left = load_config(changed(**tiny.WITHOUT_ABLATION, **nothing_transferred()))
    assert left.studied_concepts() == list(DEFAULT["concepts"])


def test_what_is_left_out_is_known_by_its_key():
    assert omitted(load_config(changed())) == []
    assert omitted(load_config(changed(steering="none", evaluation=[]))) == ["evaluation", "steering"]
    left = load_config(tiny.everything_left_out())
    assert omitted(left) == ["evaluation", "lexical", "ablation", "heads", "steering"]
    assert set(omitted_rules(left).values()) == {
        *("evaluation", "perplexity", "ablation", "heads", "steering", "labelling")
    }
    # Whether data are held out is asked for each data set that is reported on: it is no stage of its own.
    assert {rule for key in ("evaluation", "ablation", "heads", "steering") for rule in RULES[key]} == (
        SCORES | CAUSAL | HEADS | STEERING | CHOSEN
    ) - {"hold_out"}


def test_targets_of_a_stage_that_is_left_out_are_told_so(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tiny.everything_left_out(), sort_keys=False))
    heads = "results/tiny/heads/seed_0/spatial/scores.csv"
    figure = "results/tiny/figures/seed_0/spatial/ablation_effects.svg"
    metrics = "results/tiny/dictionaries/base/seed_0/metrics.csv"
    wanted = {
        "rank_features": "ablation", "plot_steering": "steering", "describe_features": "labelling",
        heads: "heads", figure: "ablation", metrics: "evaluation",
    }  # fmt: skip
    command = [sys.executable, "-m", "snakemake", "-n", *wanted, "--configfile", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), text=True, capture_output=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    for target, key in wanted.items():
        line = f"{target}: needs `{key}`, which this configuration leaves out (none); fill in `{key}`"
        assert said.count(line) == 1
    assert "makes one set of files for each of many cases" not in said

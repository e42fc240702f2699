"""Models that were never tuned, and the comparison that is made of one."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlmdiff.config.load import ConfigError, load_config

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def changed(**sections):
    """Return the default configuration with entries of some sections updated."""
    values = copy.deepcopy(DEFAULT)
    for section, entries in sections.items():
        for name, entry in entries.items():
            old = values[section].get(name)
            values[section][name] = {**old, **entry} if isinstance(old, dict) else entry
    return values


def refused(**sections) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(changed(**sections))
    return str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"untuned": "vlm_50"},
            "models.vlm_untuned.untuned: found 'vlm_50' of family 'llava', expected a model",
        ),
        ({"untuned": "vlm_untuned"}, "models.vlm_untuned.untuned: found 'vlm_untuned' of family 'llava'"),
        ({"untuned": "nothing"}, "models.vlm_untuned.untuned: unknown model 'nothing'; declared are"),
        ({"text_only": True}, "untuned: found 'base_lm' with text_only: true, expected a model that sees"),
        ({"projector": "other"}, "models.vlm_untuned.projector: Input should be 'tuned' or 'random'"),
        ({"untuned": None, "projector": "random"}, "projector: found 'random' without `untuned`"),
    ],
)
def test_what_makes_no_model_is_refused(entry, message):
    assert message in refused(models={"vlm_untuned": entry})


def test_a_language_model_has_no_frame():
    message = refused(models={"lm_continued": {"untuned": "base_lm"}})
    assert "untuned: found 'base_lm' with family 'causal_lm'" in message
    assert "use model 'base_lm' itself" in message


def test_planned_widths_are_equal():
    models = {"base_lm": {"planned": {"d_model": 48}}, "vlm_untuned": {"planned": {"d_model": 64}}}
    assert "'base_lm' is planned with d_model 48, 'vlm_untuned' with 64, expected equal" in refused(
        models=models
    )
    models["vlm_untuned"]["planned"]["d_model"] = 48
    load_config(changed(models=models))


def test_the_null_is_of_a_model_that_was_never_tuned():
    message = refused(diff={"untuned": "scratch"})
    assert (
        "diff.untuned: comparison 'scratch' is of model 'vlm', expected one that was never tuned" in message
    )
    message = refused(comparisons={"untuned": {"target": "controls"}})
    assert "diff.untuned: comparison 'untuned' has target 'controls', expected 'all'" in message
    other = {"base": "base_k4", "adapted": "adapted_k4", "null": "null_k4"}
    message = refused(comparisons={"untuned": other})
    assert "diff.untuned: comparison 'untuned' has base 'base_k4', expected 'base' as in diff" in message


def test_its_dictionary_has_the_budget_of_the_adapted_one():
    """Also where its comparison has a null of its own, with which it is trained alike."""
    own = {
        "initial": "base",
        "model": "base_lm",
        "dataset": "text_null",
        "steps": 77,
        "learning_rate": 3.0e-4,
    }
    sections = {
        "dictionaries": {"adapted_untuned": {"steps": 77}, "null_short": own},
        "comparisons": {"untuned": {"null": "null_short"}},
        "diff": {"null_check": None},
    }
    assert "diff.untuned: dictionary 'adapted_untuned' is not trained as 'adapted' is" in refused(**sections)


def test_without_the_comparison_nothing_is_asked():
    values = changed(diff={"untuned": None})
    del values["comparisons"]["untuned"]
    assert "adapted_untuned" not in load_config(values).default_dictionaries()


def test_rules_read_both_checkpoints():
    shard = "results/builtin/activations/vlm_untuned/text_val/layers_0_3/shard_0.h5"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--dry-run",
        "--forcerun",
        "extract_activations",
        "--",
        shard,
    ]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    [line] = [one for one in done.stdout.splitlines() if one.startswith("    input: ") and "/vlm/" in one]
    read = line.removeprefix("    input: ").split(", ")
    for model in ("vlm", "base_lm"):
        assert {f"resources/world/{model}/{file}" for file in ("config.json", "model.safetensors")} <= set(
            read
        )

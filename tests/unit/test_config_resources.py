"""What jobs ask of the machine, worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny

from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.resources import resource_problems, resources


def asked(rule, said=None, **changes):
    """The resources of a rule, those that grow by their values at the first try and at the third."""
    config = load_config(tiny.tiny(resources=said or {}, **changes))
    found = resources(config, rule)
    return {
        name: [value(None, attempt) for attempt in (1, 3)]
        if name in ("mem_mb", "runtime") and callable(value)
        else value
        for name, value in found.items()
    }


@pytest.mark.parametrize(
    ("rule", "said", "expected"),
    [
        ("plot_funnel", {}, {"mem_mb": [1000, 2000], "runtime": [5, 10]}),
        ("rank_features", {}, {"mem_mb": [2000, 4000], "runtime": [30, 60]}),
        ("rank_features", {"runtime": "12h"}, {"mem_mb": [2000, 4000], "runtime": "12h"}),
        ("rank_features", {"mem_mb": 9, "gpu": 1}, {"mem_mb": [9, 18], "runtime": [30, 60], "gpu": 1}),
    ],
)
def test_what_the_configuration_says_counts_and_numbers_grow_with_every_retry(rule, said, expected):
    assert asked(rule, {rule: said}) == expected


def test_an_input_scale_is_estimated_with_what_one_process_of_a_training_has_its_time_aside():
    said = {"train_dictionary": {"gpu": 1, "mem_mb": 50, "runtime": 999}}
    assert asked("estimate_scale", said) == {"gpu": 1, "mem_mb": [50, 100], "runtime": [30, 60]}
    said["estimate_scale"] = {"mem_mb": 7, "runtime": 3}
    assert asked("estimate_scale", said) == {"gpu": 1, "mem_mb": [7, 14], "runtime": [3, 6]}


def test_each_process_of_a_training_has_its_gpu_and_on_several_nodes_its_task():
    stages = tiny.tiny()["dictionaries"]
    stages["base"] |= {"nodes": 2, "devices": 4}
    found = asked("train_dictionary", {"train_dictionary": {"gpu": 1}}, dictionaries=stages)
    several, one = SimpleNamespace(dictionary="base"), SimpleNamespace(dictionary="scratch")
    counts = {name: (found[name](several), found[name](one)) for name in ("gpu", "nodes", "tasks")}
    assert counts == {"gpu": (8, 1), "nodes": (2, 1), "tasks": (8, 1)}
    assert found["tasks_per_gpu"] == 1
    # Without several nodes and GPUs nothing of that kind is asked.
    assert asked("train_dictionary").keys() == {"mem_mb", "runtime"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mem_mb": "8GB"}, "mem_mb: found '8GB', expected megabytes, at least 1"),
        ({"mem_mb": 0}, "mem_mb: found 0, expected megabytes, at least 1"),
        ({"mem_mb": True}, "mem_mb: found true, expected a number"),
        ({"mem": "8GB"}, "mem: found '8GB', expected `mem_mb`"),
        ({"runtime": "soon"}, "runtime: found 'soon', expected minutes, or a duration such as 12h"),
        ({"gpu": "a100"}, "gpu: found 'a100', expected a number of GPUs; `gpu_model` names their kind"),
        ({"gpu": -1}, "gpu: found -1, expected a number of GPUs"),
        ({"tasks": 7}, "tasks: found '7', expected `devices` and `nodes` of the dictionary"),
        ({"threads": 3}, "threads: found '3', expected `threads`, a key of the whole configuration"),
        ({"_cores": 3}, "_cores: unknown resource"),
    ],
)
def test_amounts_that_cannot_be_are_refused_with_their_key(asked, words):
    with pytest.raises(ConfigError, match="resources") as refused:
        load_config(tiny.tiny(resources={"train_dictionary": asked}))
    assert f"train_dictionary.{words}" in str(refused.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"runtime": "1d 12h"},
        {"runtime": "90 min"},
        {"gpu": 0},
        {"slurm_partition": "long", "gpu_model": "a100", "checkpoint_every_s": 60},
    ],
)
def test_amounts_that_schedulers_know_are_taken(asked):
    config = load_config(tiny.tiny(resources={"train_dictionary": asked}))
    assert config.resources["train_dictionary"] == asked


def test_resources_of_unknown_rules_are_told():
    config = load_config(tiny.tiny(resources={"train_dict": {"gpu": 1}}))
    (line,) = resource_problems(config, ["train_dictionary", "verify"])
    assert line == (
        "resources.train_dict: found 'train_dict', which has no jobs in this workflow; did you mean "
        "train_dictionary?"
    )
    assert resource_problems(load_config(tiny.tiny()), ["verify"]) == []

"""What jobs ask of the machine, worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny

from vlmdiff.config.load import load_config
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


def test_resources_of_unknown_rules_are_told():
    config = load_config(tiny.tiny(resources={"train_dict": {"gpu": 1}}))
    (line,) = resource_problems(config, ["train_dictionary", "verify"])
    assert line == (
        "resources: found ['train_dict'], which are no rules of this workflow; did you mean "
        "['train_dictionary']?"
    )
    assert resource_problems(load_config(tiny.tiny()), ["verify"]) == []

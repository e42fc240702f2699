"""Configurations that cannot mean what they say are refused with the key, what was found and what to do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_experiment import put

from vlmdiff.config.load import ConfigError, load_config

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())


def refusal(changes: dict[str, Any]) -> str | None:
    """Return why the default configuration with some keys changed is refused; None if it is not."""
    values = copy.deepcopy(DEFAULT)
    for path, value in changes.items():
        put(values, path, value)
    try:
        load_config(values)
    except ConfigError as error:
        return str(error)
    return None


SETS = {
    "a kind that no file can hold": (
        {"datasets": {"mine": {"kind": "\ud800", "path": "mine"}}},
        "datasets.mine.kind: found NUL or half a character, expected a text",
    ),
    "a set of one": (
        {"ablation.headline": {"size": 1}},
        "ablation.headline.size: found 1, expected 2 or more",
    ),
    "one size of one": ({"ablation.set_sizes": [1, 10]}, "ablation.set_sizes.0: found 1, expected 2 or more"),
    "a headline of another size": (
        {"ablation.set_sizes": [3, 5]},
        "headline.size: found 10, expected one of `set_sizes`, [3, 5]; name one of them, or add it to",
    ),
    "a headline of another scope": (
        {"ablation.scopes": ["own_layer"]},
        "headline.scope: found 'all_layers', expected one of `scopes`, ['own_layer']; name one of them",
    ),
    "fewer candidates than a set has": (
        {"ablation.candidates": 19},
        "ablation: candidates: found 19, expected at least 20, the largest of `set_sizes`",
    ),
    "as many candidates": ({"ablation.candidates": 20, "ablation.verified": 20}, None),
    "fewer verified": (
        {"ablation.verified": 19},
        "verified: found 19, expected at least 20, the most features that single_features and set_sizes",
    ),
    "one data set on both sides": (
        {"ablation.rank_on.control": "spatial_val"},
        "ablation.rank_on: control: found 'spatial_val', which is `target` too, expected general questions",
    ),
    "the same groups on both sides": (
        {
            "ablation.rank_on.target": {"dataset": "spatial_val", "groups": ["above"]},
            "ablation.rank_on.control": {"dataset": "spatial_val", "groups": ["above"]},
        },
        "which is `target` too",
    ),
    "other groups of one data set": (
        {
            "ablation.rank_on.target": {"dataset": "spatial_val", "groups": ["above"], "samples": 40},
            "ablation.rank_on.control": {"dataset": "spatial_val", "groups": ["below"], "samples": 40},
        },
        None,
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_and_sides(name):
    changes, said = SETS[name]
    message = refusal(changes)
    assert message is None if said is None else said in message


# Lists in which something stands twice.
DOUBLED = {
    "ablation.concepts": ["spatial", "spatial"],
    "ablation.scopes": ["all_layers", "own_layer", "all_layers"],
    "ablation.set_sizes": [10, 3, 10],
    "ablation.selection_sizes": [10, 10],
    "heads.ablate_sizes": [2, 1, 2],
    "diff.visual_datasets": ["general_val", "general_val"],
    "diff.text_datasets": ["text_val", "text_val"],
    "diff.sweep_eps": [0.1, 0.1],
    "diff.sweep_percentiles": [5, 5.0],
    "comparisons.k_4.visual_datasets": ["general_val", "general_val"],
    "dictionaries.adapted.tokens": ["text", "text"],
    "stages.models": ["vlm", "vlm"],
    "concepts.counting.target.groups": ["count", "count"],
    "concepts.counting.baseline.without": ["count", "count"],
    "concepts.counting.words": ["two", "two"],
    "lexical.prompts": ["describe .", "describe ."],
}


@pytest.mark.parametrize("key", DOUBLED)
def test_nothing_is_named_twice(key):
    doubled = DOUBLED[key][-1]
    message = refusal({key: DOUBLED[key]})
    assert f"{key}: found {doubled} more than once, expected each once; leave the others out" in message


TEXTS = [
    ({"concepts.counting.words": ["two", " "]}, "concepts.counting.words.1: found ' ', expected a text"),
    ({"lexical.prompts": [""]}, "lexical.prompts.0: found '', expected a text; leave it out"),
    ({"concepts.counting.target.groups": []}, "concepts.counting.target: groups: found [], which leaves no"),
    (
        {"concepts.counting.target": {"dataset": "general_val", "groups": ["count"], "without": ["count"]}},
        "groups: found ['count'] without ['count'], which leaves no sample; name a group, or leave",
    ),
    ({"comparisons.k_4.text_datasets": []}, "comparisons.k_4.text_datasets"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), TEXTS)
def test_nothing_is_empty(changes, said):
    assert said in refusal(changes)


MODELS = {
    "another model than the dictionary's": (
        {"comparisons.k_4.model": "vlm_50"},
        "comparisons.k_4.model: found 'vlm_50', but its adapted dictionary 'adapted_k4' is trained on 'vlm', "
        "and rule 'calibrated' needs both of one model; name 'vlm', a dictionary that is trained on the",
    ),
    "in the main comparison": ({"diff.adapted": "adapted_50"}, "diff.model: found 'vlm', but its adapted"),
    "by energy alone": ({"comparisons.no_rotation.model": "vlm_50"}, None),
    "another name of one model": (
        {"models.twin": {"path": "world:vlm", "dtype": "bfloat16"}, "comparisons.k_4.model": "twin"}, None,
    ),
    "another language model in the frame": (
        {"models.vlm_untuned.untuned": "lm_continued"},
        "models.vlm_untuned.untuned: found 'lm_continued', expected 'base_lm', on which dictionary 'base'",
    ),
    "a model under study that was never tuned": (
        {"diff.model": "vlm_untuned", "diff.adapted": "adapted_untuned"},
        "diff.model: found 'vlm_untuned', whose language model is 'base_lm' and was never tuned",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_dictionaries_and_models_belong_together(name):
    changes, said = MODELS[name]
    message = refusal(changes)
    assert message is None if said is None else said in message


KINDS = [
    ({"kind": "vqav"}, "'whatsup', 'cvbench', 'text', 'subset'; did you mean 'vqav2'?"),
    ({"kind": "VSR", "source": "x"}, "did you mean 'vsr'?"),
    ({"kind": "whats_up", "source": "x"}, "did you mean 'whatsup'?"),
    ({"kind": "zebra"}, "expected one of 'folder', 'vqav2', 'gqa', 'vsr', 'whatsup', 'cvbench', 'text'"),
    ({"kind": ["vsr"]}, "kind: found '['vsr']', expected one of"),
    ({"kind": "spatial"}, "'subset'; it is one of the built-in world: write it in `world.datasets`"),
    ({"kind": "vsr"}, "the samples come from; VSR's annotations are shipped as resources/vsr_random"),
    ({"kind": "text"}, "source: missing; write where the samples come from"),
    ({"samples": 10}, "path: missing; write where the samples come from"),
    ({"kind": "vsr", "path": "resources/vsr_random"}, "found `path: resources/vsr_random` with kind"),
    ({"kind": "folder", "source": "my/data"}, "with kind 'folder', which is read from `path`; rename it"),
    ({"source": "hub:a/b@main"}, "kind: missing, and found `source: hub:a/b@main`; write `kind: vqav2` or"),
    ({"of": "general_val"}, "kind: missing, and found `of: general_val`; write `kind: subset` with it"),
    ({"kind": "vsr", "source": "x", "prompt": "Is it so?"}, "found 'Is it so?', expected {caption} in it"),
    ({"kind": "vqav2", "source": "x", "prompt": "{caption}"}, "found '{caption}', expected {question} in it"),
    ({"kind": "gqa", "source": "hub:lmms-lab/GQA@main", "images": "x"}, "expected a folder on this machine"),
    ({"kind": "gqa", "source": "x"}, "datasets.mine.images: Field required"),
    ({"kind": "cvbench", "source": "x", "tasks": ["Size"]}, "'Relation', 'Count', 'Depth' or 'Distance'"),
    ({"kind": "cvbench", "source": "x", "split": "train"}, "'test'"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "said"), KINDS)
def test_an_entry_of_data_says_where_its_kind_comes_from(entry, said):
    message = refusal({"datasets": {"mine": {"samples": 10, **entry}}})
    assert "datasets.mine" in message and said in message

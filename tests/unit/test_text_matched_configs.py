"""Concepts by equal texts: what their configuration takes, refuses and derives, before anything runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_experiment import experiment, question, write_samples

from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.data.local_data import data_problems
from vlmdiff.features.matched_problems import matched_problems

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
GROUNDED = {"contrast": "text_matched", "target": {"dataset": "spatial_val"}}


def refusal(concept: dict[str, Any]) -> str | None:
    """Return why the default configuration with one more concept is refused; None if it is not."""
    values = copy.deepcopy(DEFAULT)
    values["concepts"]["mine"] = concept
    try:
        load_config(values)
    except ConfigError as error:
        return str(error)
    return None


CONCEPTS = {
    "a target alone": (GROUNDED, None),
    "all keys": (
        GROUNDED
        | {"label": "answer", "strata": "prompt", "within": "relation", "min_effect_size": 0.2, "fdr": 0.01}
        | {"min_frequency": 0.1, "unit": "sample", "lexical": False},
        None,
    ),
    "an unknown contrast": (
        GROUNDED | {"contrast": "text-matched"},
        "concepts.mine: contrast: found 'text-matched', expected one of counts, text_matched",
    ),
    "a contrast that no file can hold": (
        GROUNDED | {"contrast": "\ud800"},
        "concepts.mine.contrast: found NUL or half a character, expected a text",
    ),
    "a baseline": (
        GROUNDED | {"baseline": {"dataset": "general_val"}},
        "concepts.mine: baseline: found with `contrast: text_matched`, which holds values of `label` against",
    ),
    "a key of counts": (GROUNDED | {"min_odds_ratio": 2.0}, "concepts.mine.min_odds_ratio: unknown key"),
    "a key of equal texts": (
        {"target": {"dataset": "spatial_val"}, "baseline": {"dataset": "general_val"}, "label": "answer"},
        "concepts.mine.label: unknown key",
    ),
    "tokens": (GROUNDED | {"unit": "token"}, "concepts.mine.unit: Input should be 'sample' (found: 'token')"),
    "a filter of words": (GROUNDED | {"lexical": True}, "concepts.mine.lexical: Input should be False"),
    "several labels": (GROUNDED | {"label": ["answer", "first.row"]}, None),
    "no label": (GROUNDED | {"label": []}, "\n  concepts.mine.label: found an empty list, expected at least"),
    "one label twice": (
        GROUNDED | {"label": ["answer", "answer"]},
        "\n  concepts.mine.label: found answer more than once",
    ),
    "a label of blanks": (
        GROUNDED | {"label": ["answer", " "]},
        "\n  concepts.mine.label.1: found ' ', expected a text",
    ),
    "a number among labels": (GROUNDED | {"label": [3]}, "\n  concepts.mine.label.0: expected text"),
    "a number as label": (GROUNDED | {"label": 3}, "\n  concepts.mine.label: expected text"),
    "a section as label": (GROUNDED | {"label": {}}, "\n  concepts.mine.label: expected text (found: {})"),
    "a list among labels": (
        GROUNDED | {"label": ["answer", ["first", "row"]]},
        "\n  concepts.mine.label.1: expected text (found: ['first', 'row'])",
    ),
    "one of several labels that is alike in a stratum": (
        GROUNDED | {"within": "relation", "label": ["answer", "relation"]},
        "concepts.mine: within: found 'relation', which is `label` too: samples that agree in it",
    ),
    "several labels of changed images": (
        GROUNDED | {"contrast": "counterfactual", "transformed": "spatial_val", "label": ["answer"]},
        "concepts.mine.label: expected text",
    ),
    "a label that is alike in a stratum": (
        GROUNDED | {"strata": "answer"},
        "concepts.mine: strata: found 'answer', which is `label` too: samples that agree in it",
    ),
    "groups without data": (
        {"contrast": "text_matched", "groups": ["above"]},
        "groups: found without `data`, which tells whose groups they are; write `target: {dataset: …",
    ),
}


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_concept_is_taken_or_told(name):
    concept, said = CONCEPTS[name]
    found = refusal(concept)
    assert found is None if said is None else found is not None and said in found, found


def test_a_comparison_changes_what_the_contrast_knows():
    config = load_config(copy.deepcopy(DEFAULT))
    assert config.concept("spatial", "odds_5").min_odds_ratio == 5
    assert config.concept("spatial_grounded", "odds_5") == config.concepts["spatial_grounded"]


@pytest.fixture
def values(tmp_path) -> dict:
    values = experiment(tmp_path)
    values["concepts"]["grounded"] = {"contrast": "text_matched", "target": {"dataset": "rank"}}
    return values


def problems(values: dict) -> list[str]:
    return [line for line in data_problems(load_config(values), matched_problems) if "grounded" in line]


def repeated(folder: Path, **more: Callable[[int], str]) -> None:
    """Write six texts, each true of three photos and false of three others, with `more` keys of each text."""
    samples = [
        question(6 * text + place)
        | {
            "sample_id": f"q{6 * text + place}",
            "prompt": f"text {text}",
            "answer": ("yes", "no")[place % 2],
            "choices": ["yes", "no"],
            "image": f"images/{(6 * text + place) % 12}.png",
        }
        | {key: value(text) for key, value in more.items()}
        for text in range(6)
        for place in range(6)
    ]
    write_samples(folder, samples)


def test_repeated_texts_are_enough(values, tmp_path, caplog):
    repeated(tmp_path / "rank")
    assert problems(values) == [] and caplog.messages == []


def test_strata_of_different_texts_are_told(values, tmp_path, caplog):
    """Of three texts that are used the first and the last have one template."""
    repeated(tmp_path / "rank", template=lambda text: f"template {text % 2}")
    values["concepts"]["grounded"]["strata"] = "template"
    assert problems(values) == []
    (line,) = caplog.messages
    told = "samples that agree in 'template' have different texts (of 1 of its values), whose words"
    assert line.startswith(f"concepts.grounded.strata: {told}")
    # A template of one text is one.
    caplog.clear()
    repeated(tmp_path / "rank", template=lambda text: f"template {text}")
    assert problems(values) == [] and caplog.messages == []


def test_an_unknown_key_is_told_before_anything_runs(values, tmp_path):
    repeated(tmp_path / "rank")
    values["concepts"]["grounded"]["within"] = "relation"
    (line,) = problems(values)
    assert line.startswith(
        "concepts.grounded.within: found 'relation', which none of 18 samples has, expected"
    )
    assert line.endswith(f"(data set 'rank', {tmp_path / 'rank' / 'samples.jsonl'})")


def test_texts_that_never_repeat_are_told_before_anything_runs(values, tmp_path):
    write_samples(tmp_path / "rank", [question(index) | {"prompt": f"text {index}"} for index in range(18)])
    (line,) = problems(values)
    assert line.startswith(
        "concepts.grounded.strata: found 0 of 18 values of 'prompt' with different values of"
    )


def test_pictures_that_nothing_tells_yet_count_one_by_one(values, tmp_path):
    """VSR's annotations name pictures; where these are not COCO's, their files alone could tell more."""
    rows = [
        {
            "image": f"photo_{i}.jpg",
            "caption": f"the cat is on the mat {i % 5}",
            "label": i // 5 % 2,
            "relation": "on",
        }
        for i in range(60)
    ]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "annotations" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values["datasets"]["vsr"] = {
        "kind": "vsr",
        "source": str(tmp_path / "annotations"),
        "images": str(tmp_path / "photos"),
        "split": "train",
        "samples": 60,
    }
    values["concepts"]["grounded"] = {"contrast": "text_matched", "target": {"dataset": "vsr"}}
    assert problems(values) == []
    values["concepts"]["grounded"]["label"] = "size"
    assert problems(values)[0].startswith(
        "concepts.grounded.label: found 'size', which none of 60 samples has"
    )

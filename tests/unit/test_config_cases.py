"""Which comparisons, seeds, concepts and questions the tiny experiment has, worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny

from vlmdiff.config import cases
from vlmdiff.config.load import load_config

FULL = ["full"]
EACH = ["contrast", "contrast_visual", "contrast_lexical", "contrast_adapted", "full"]


def with_more_seeds():
    """The tiny experiment, in which some comparisons have two seeds."""
    values = tiny.tiny()
    for name in ("scratch", "tuned_50"):
        values["comparisons"][name]["seeds"] = 2
    return load_config(values)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # What was never tuned is a control too, though the default run makes it.
        ("controls", [("main", 0), ("untuned", 0), ("shuffled_images", 0)]),
        ("stages", [("main", 0), ("main", 1), ("tuned_50", 0), ("tuned_50", 1)]),
        ("sensitivity", [("main", 0), ("eps_high", 0)]),
    ],
)
def test_a_target_has_its_comparisons_and_the_main_one_of_their_seeds(target, expected):
    assert cases.compared_cases(with_more_seeds(), target) == expected


def test_a_target_without_comparisons_has_no_cases():
    values = tiny.tiny()
    del values["comparisons"]["eps_high"]
    assert cases.compared_cases(load_config(values), "sensitivity") == []


def test_the_default_run_compares_what_was_tuned():
    assert cases.default_cases(with_more_seeds()) == [("scratch", 0), ("scratch", 1)]


COMPARED = ["spatial", "truth", "grounded"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [("controls", COMPARED), ("stages", ["spatial"]), (None, COMPARED)],
)
def test_concepts_are_compared_that_are_studied_or_ask_for_it(target, expected):
    assert cases.compared_concepts(load_config(tiny.tiny()), target) == expected


def test_studied_concepts_have_all_seeds_and_others_the_first():
    config = load_config(tiny.tiny(seeds=3))
    assert [list(cases.concept_seeds(config, name)) for name in ("spatial", "truth")] == [[0, 1, 2], [0]]


@pytest.mark.parametrize(("name", "seeds"), [("base", 3), ("null_text", 2), ("scratch", 1)])
def test_a_dictionary_is_scored_for_the_most_seeds_that_an_entry_asks_for(name, seeds):
    values = tiny.tiny(seeds=3)
    values["evaluation"][0]["seeds"] = 2
    assert list(cases.scored_seeds(load_config(values), name)) == list(range(seeds))


def test_comparisons_are_described():
    described = cases.described_cases(load_config(tiny.tiny()), "controls", "truth")
    assert [(one["comparison"], one["about"], one["untuned"], one["seed"]) for one in described] == [
        ("main", "the main comparison", False, 0),
        ("untuned", "never tuned", True, 0),
        ("shuffled_images", "shuffled images", False, 0),
    ]
    assert {one["unit"] for one in described} == {"token"}


def test_the_main_comparison_is_ablated_by_each_rule_and_others_by_the_full_one():
    config = load_config(tiny.tiny())
    assert cases.selection_rules(config, "shuffled_images") == FULL
    facts = cases.selection_facts(config)
    assert facts == {"sizes": [3], "rules": {"main": EACH, "scratch": FULL}}


def test_of_methods_on_the_scoreboard_the_contrast_alone_is_ablated_too():
    values = tiny.tiny()
    assert cases.selection_rules(load_config(values), "drift") == ["contrast", "full"]
    values["scoreboard"]["methods"].pop("drift")
    assert cases.selection_rules(load_config(values), "drift") == FULL


def test_the_headline_is_the_first_concept_and_what_is_ablated():
    values = tiny.tiny()
    values["ablation"]["concepts"] = ["truth", "spatial"]
    facts = cases.headline_facts(load_config(values))
    assert (facts["concept"], facts["concepts"]) == ("truth", ["truth", "spatial"])
    assert (facts["size"], facts["sizes"], facts["seeds"]) == (2, [2, 3], 2)


def test_test_data_are_asked_for_the_most_samples_of_a_stage():
    values = tiny.tiny()
    values["heads"]["report_on"] = {"target": "spatial_test", "control": "truth_test", "samples": 50}
    values["world"]["datasets"]["truth_test"] = values["world"]["datasets"]["spatial_test"]
    assert cases.asked_data(load_config(values)) == {"spatial_test": 50, "general_test": 40, "truth_test": 50}


def test_what_is_left_out_has_no_cases():
    config = load_config(tiny.everything_left_out())
    assert cases.selection_facts(config) == {}
    assert cases.headline_facts(config) is None
    assert cases.asked_data(config) == {}
    assert cases.reported_data(config.ablation) == []


def test_checkpoints_and_towers_come_from_the_hub_if_they_say_so():
    config = load_config(tiny.everything_left_out())
    tower, whole = f"hub:some/tower@{'b' * 40}", f"hub:some/model@{'c' * 40}"
    models = {
        **config.models,
        "vlm": config.models["vlm"].model_copy(update={"vision_tower": tower}),
        "vlm_50": config.models["vlm_50"].model_copy(update={"path": whole}),
    }
    fetched = cases.fetched_sources(config.model_copy(update={"models": models}))
    assert fetched == {"vlm_vision_tower": tower, "vlm_50": whole}


def test_what_a_training_does_not_read_is_as_if_it_were_not_given():
    values = tiny.tiny()
    values["architecture"] |= {"kind": "topk", "bandwidth": 0.5, "subtract_decoder_bias": False}
    config = load_config(values)
    cold, warm = (cases.trained_shape(config, name) for name in ("base", "adapted"))
    assert (cold["bandwidth"], warm["bandwidth"]) == (0.001, 0.001)
    assert (cold["subtract_decoder_bias"], warm["subtract_decoder_bias"]) == (False, True)
    assert cold["d_sae"] == warm["d_sae"] == values["architecture"]["d_sae"]

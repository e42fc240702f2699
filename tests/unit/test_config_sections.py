"""Every check across sections, on every section that it is for; keys are listed here by hand."""

import copy
from pathlib import Path

import pytest
import yaml

from vlmdiff.config.comparisons import OF_CONCEPT, OF_DIFF
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.world import WorldDataset, scenes_up_to

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())


def changed(*changes: tuple[str, object]) -> dict:
    """Return the default configuration with some keys set; a number in a path is a place in a list."""
    values = copy.deepcopy(DEFAULT)
    for path, value in changes:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        section = values
        for key in parents:
            section = section[key] if isinstance(key, int) else section.setdefault(key, {})
        section[last] = value
    return values


def refused(*changes: tuple[str, object]) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(changed(*changes))
    return str(error.value)


# Kind of what is named, key; a list stands for its first element.
REFERENCES = [
    ("model", "dictionaries.adapted.model"),
    ("dataset", "dictionaries.adapted.dataset"),
    ("dictionary", "dictionaries.adapted.initial"),
    ("model", "evaluation.1.model"),
    ("dataset", "evaluation.1.dataset"),
    ("dictionary", "evaluation.1.dictionaries"),
    ("model", "diff.model"),
    ("dictionary", "diff.base"),
    ("dictionary", "diff.adapted"),
    ("dictionary", "diff.null"),
    ("dictionary", "diff.null_check"),
    ("comparison", "diff.untuned"),
    ("model", "models.vlm_untuned.untuned"),
    ("dataset", "diff.visual_datasets"),
    ("dataset", "diff.text_datasets"),
    ("model", "comparisons.shuffled_images.model"),
    ("dictionary", "comparisons.k_4.base"),
    ("dictionary", "comparisons.k_4.adapted"),
    ("dictionary", "comparisons.k_4.null"),
    ("dataset", "comparisons.eps_low.visual_datasets"),
    ("dataset", "comparisons.eps_low.text_datasets"),
    ("dictionary", "stages.grid.data"),
    ("dictionary", "stages.grid.model"),
    ("dictionary", "stages.grid.data_then_model"),
    ("dictionary", "stages.grid.model_then_data"),
    ("model", "stages.models"),
    ("dataset", "concepts.counting.target.dataset"),
    ("dataset", "concepts.counting.baseline.dataset"),
    ("concept", "ablation.concepts"),
    ("concept", "heads.concepts"),
    ("dataset", "heads.dataset"),
    ("dataset", "heads.head_means.dataset"),
    ("concept", "steering.concepts"),
    ("model", "steering.model"),
    *(
        ("dataset", f"{section}.{use}.{side}")
        for section in ("ablation", "heads", "steering")
        for use in ("rank_on", "report_on")
        for side in ("target", "control")
        if (section, use) != ("heads", "rank_on")
    ),
]
LISTS = ("dictionaries", "datasets", "models", "concepts")


@pytest.mark.parametrize(("kind", "key"), REFERENCES, ids=[key for _, key in REFERENCES])
def test_what_is_named_is_declared(kind, key):
    several = key.split(".")[-1].endswith(LISTS) and key.count(".") > 0
    message = refused((key, ["nothing"] if several else "nothing"))
    assert f"{key}: unknown {kind} 'nothing'; declared are [" in message


def test_data_sets_of_ones_own_are_known_too():
    folder = {"path": "mine", "samples": 10}
    config = load_config(changed(("datasets", {"mine": folder}), ("heads.dataset", "mine")))
    assert config.dataset("mine").path == "mine"
    assert config.dataset("spatial_val").kind == "spatial"


@pytest.mark.parametrize("layers", [[0, 1, 1], [-1, 0], [1, 0]])
def test_layers_rise_from_0_and_do_not_repeat(layers):
    assert "layers: expected rising numbers from 0 on" in refused(("layers", layers))


@pytest.mark.parametrize("name", ["main", "statistics"])
def test_some_names_of_comparisons_are_taken(name):
    entry = {"target": "stages", "about": "x"}
    assert f"['{name}'] cannot be the name" in refused((f"comparisons.{name}", entry))


def test_as_many_active_features_as_there_are_but_no_more():
    shape = {"d_sae": 1024, "k": 1024}
    load_config(changed(("architecture", shape), ("dictionaries.scratch.architecture", shape)))
    more = {"d_sae": 1024, "k": 1025}
    assert "architecture.k: found 1025, allowed at most d_sae = 1024" in refused(("architecture", more))
    assert "dictionaries.scratch.architecture.k: found 1025" in refused(
        ("dictionaries.scratch.architecture", more)
    )


def test_a_warm_start_keeps_the_width():
    narrow = {"d_sae": 512, "k": 8}
    message = refused(("dictionaries.adapted.architecture", narrow))
    assert (
        "dictionaries.adapted.architecture.d_sae: found 512, but it starts from 'base' with 1024" in message
    )
    # From nothing any width will do.
    config = load_config(changed(("dictionaries.scratch.architecture", narrow)))
    assert (config.shape("scratch").d_sae, config.shape("adapted").d_sae) == (512, 1024)


@pytest.mark.parametrize("changes", [{"devices": 2}, {"nodes": 2}])
def test_a_stream_trains_in_one_process(changes):
    stage = DEFAULT["dictionaries"]["adapted"] | changes
    message = refused(("extraction.store", "stream"), ("dictionaries.adapted", stage))
    assert "dictionaries.adapted: found 2 processes and `store: stream`" in message
    for store in ("keep", "temporary"):
        load_config(changed(("extraction.store", store), ("dictionaries.adapted", stage)))


def test_processes_are_devices_of_all_nodes():
    stage = DEFAULT["dictionaries"]["scratch"] | {"devices": 3, "nodes": 2, "batch_tokens": 600}
    assert load_config(changed(("dictionaries.scratch", stage))).dictionaries["scratch"].processes == 6
    message = refused(("dictionaries.scratch", stage | {"batch_tokens": 603}))
    assert "batch_tokens: found 603, expected a multiple of devices * nodes = 6" in message


@pytest.mark.parametrize("key", ["diff.adapted", "diff.null", "diff.null_check"])
def test_main_compares_what_keeps_its_index(key):
    assert f"{key}: dictionary 'scratch' starts from 'random'" in refused((key, "scratch"))


@pytest.mark.parametrize("key", ["comparisons.eps_low.adapted", "comparisons.eps_low.null"])
def test_further_comparisons_compare_what_keeps_its_index(key):
    # One that comes from another base is as foreign as one from nothing.
    for name, start in (("scratch", "random"), ("adapted_k4", "base_k4")):
        assert f"{key}: dictionary '{name}' starts from '{start}'" in refused((key, name))


def test_a_rule_without_rotation_needs_no_common_index_but_its_null_does():
    entry = {"target": "sensitivity", "about": "x", "rule": "energy"}
    load_config(changed(("comparisons.eps_low", entry | {"adapted": "scratch"})))
    expected = "comparisons.eps_low.null: dictionary 'scratch' starts from 'random'"
    assert expected in refused(("comparisons.eps_low", entry | {"null": "scratch"}))


@pytest.mark.parametrize("corner", ["data", "model", "data_then_model", "model_then_data"])
def test_corners_of_the_grid_start_where_their_edges_do(corner):
    other = {"data": "scratch", "model": "base", "data_then_model": "model_then_data"}
    other |= {"model_then_data": "data_then_model"}
    message = refused((f"stages.grid.{corner}", other[corner]))
    assert f"stages.grid.{corner}: dictionary '{other[corner]}' starts from" in message


def test_an_evaluation_of_one_seed_takes_no_seeds_from_other_targets():
    entry = {"dictionaries": ["adapted", "scratch"], "model": "vlm", "dataset": "general_val", "seeds": 1}
    config = load_config(changed(("evaluation", [entry])))
    found = config.default_dictionaries()
    assert found["adapted"] == found["base"] == config.seeds > 1


def test_ancestors_are_named_from_the_nearest_on():
    config = load_config(DEFAULT)
    assert config.ancestors("data_then_model") == ["data_first", "base"]
    assert config.ancestors("base") == []


CHANGES = {
    "base": "base_k4",
    "adapted": "adapted_25",
    "null": "adapted_continued",
    "model": "vlm_25",
    "visual_datasets": ["general_val"],
    "text_datasets": ["text_train"],
    "eps": 0.0,
    "percentile": 10.0,
    "null_quantile": 0.5,
    "rule": "percentile",
}


# What changes with it: indices are the base's, and what turns is looked at in the model that turned it.
WITH = {
    "base": {"base": "base_k4", "adapted": "adapted_k4", "null": "null_k4"},
    "adapted": {"model": "vlm_25"},
    "model": {"adapted": "adapted_25"},
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_comparison_changes_one_thing_of_main(key):
    entry = {"target": "sensitivity", "about": "x", key: CHANGES[key]}
    aligned = WITH.get(key, {})
    config = load_config(changed(("comparisons.other", entry | aligned)))
    found, main = config.comparison("other").model_dump(), config.comparison("main").model_dump()
    # What was never tuned is held against main alone; each comparison asks for latent scaling by itself.
    expected = main | {"untuned": None, "base_model": None} | {key: CHANGES[key]} | aligned
    # The second null belongs to main's base.
    assert found == (expected | {"null_check": None} if key == "base" else expected)
    # A drift stands for what it alone reads (test_config_scoreboard.py).
    assert set(CHANGES) | {"method", "base_model", "null_model"} == set(OF_DIFF)


def test_a_comparison_that_names_mains_base_keeps_the_second_null():
    config = load_config(changed(("comparisons.other", {"target": "stages", "about": "x", "base": "base"})))
    assert config.comparison("other").null_check == "null_check"


def test_a_comparison_changes_the_contrast():
    entry = {"target": "sensitivity", "about": "x"}
    for key, value in (("min_odds_ratio", 7.0), ("min_frequency_difference", 0.0)):
        config = load_config(changed(("comparisons.other", entry | {key: value})))
        main = config.concept("counting", "main").model_dump()
        assert config.concept("counting", "other").model_dump() == main | {key: value}
        assert main[key] != value
    assert set(OF_CONCEPT) == {"min_odds_ratio", "min_frequency_difference"}


def test_the_default_target_trains_what_it_reads_and_what_that_starts_from():
    assert load_config(DEFAULT).default_dictionaries() == {
        "base": 3, "adapted": 3, "null_text": 3, "null_check": 1, "adapted_untuned": 1, "scratch": 1,
    }  # fmt: skip
    # An evaluation of fewer seeds takes none away; one of more seeds of a comparison's dictionary adds them.
    evaluation = [
        {"dictionaries": ["base"], "model": "vlm", "dataset": "general_val", "seeds": 1},
        {"dictionaries": ["adapted_k4"], "model": "vlm", "dataset": "general_val", "seeds": 2},
        {"dictionaries": ["scratch"], "model": "vlm", "dataset": "general_val", "seeds": 9},
    ]
    assert load_config(changed(("evaluation", evaluation))).default_dictionaries() == {
        "base": 3, "adapted": 3, "null_text": 3, "null_check": 1, "adapted_untuned": 1, "scratch": 3,
        "adapted_k4": 2, "base_k4": 2,
    }  # fmt: skip
    comparison = DEFAULT["comparisons"]["width_512"] | {"target": "all", "seeds": 2}
    found = load_config(changed(("comparisons.width_512", comparison))).default_dictionaries()
    assert [found[f"{name}_w512"] for name in ("base", "adapted", "null")] == [2, 2, 2]


def test_published_dictionaries_are_not_trained():
    published = {"source": "hub:o/n@main", "format": "gemma_scope", "file": "layer_{layer}"}
    config = load_config(changed(("dictionaries.base", published)))
    trained = {"adapted": 3, "null_text": 3, "null_check": 1, "adapted_untuned": 1, "scratch": 1}
    assert config.default_dictionaries() == trained


@pytest.mark.parametrize("strengths", [[0.5, 0], [0.5, 0.5], []])
def test_strengths_steer_and_differ(strengths):
    assert "strengths" in refused(("steering.strengths", strengths))


def test_a_mean_image_is_over_several():
    assert "image_samples must be at least 2; found 1" in refused(("heads.image_samples", 1))
    load_config(changed(("heads.image_samples", 2)))


def test_a_key_that_was_renamed_names_the_new_one():
    assert "heads: mean_samples: now called `image_samples`; write `image_samples: 7`" in refused(
        ("heads.mean_samples", 7)
    )


@pytest.mark.parametrize("snapshots", [[25, 25], [50, 25], [0], [101]])
def test_snapshots_are_rising_percentages(snapshots):
    assert "snapshots" in refused(("dictionaries.adapted.snapshots", snapshots))


@pytest.mark.parametrize(
    "key", ["concepts.spatial.fdr", "diff.null_quantile", "labels.moderate", "lexical.min_pair_fraction"]
)
def test_probabilities_end_at_one(key):
    assert key in refused((key, 1.5))
    load_config(changed((key, 1.0)))


def test_spatial_data_are_balanced_in_eighths():
    for samples in (8, 24):
        WorldDataset(kind="spatial", scenes="test", samples=samples)
    with pytest.raises(ValueError, match="multiple of 8"):
        WorldDataset(kind="spatial", scenes="test", samples=12)
    WorldDataset(kind="general", scenes="test", samples=12)


def test_a_training_of_the_world_depends_on_the_scenes_drawn_before_its_own():
    assert scenes_up_to("validation") == {"train", "validation"}
    world = load_config(DEFAULT).world
    assert set(world.stage_settings("tuning")["scenes"]) == {"train", "validation"}
    assert set(world.stage_settings("vision")["scenes"]) == {"train"}

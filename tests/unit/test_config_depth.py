"""Which decoder blocks are studied: a list, all, or evenly spaced ones; and what a model does not have."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml
from transformers import CONFIG_MAPPING

from vlmdiff.config.depth import DEFAULTS, blocks_of, evenly_spaced
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.subjects import ModelConfig
from vlmdiff.config.world import LanguageModelTraining, WorldConfig

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
TWO = {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 24}}


def checkpoint(folder: Path, values: object) -> str:
    """Write a config.json and return its folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return str(folder)


def with_models(layers: object, **models: dict) -> dict:
    """Return the default configuration with these layers and with models that stand in the world's place."""
    values = copy.deepcopy(DEFAULT) | {"layers": layers}
    for name, entry in models.items():
        values["models"][name] = values["models"].get(name, {}) | entry
    return values


def alone(layers: object, vlm: dict, base: dict) -> dict:
    """Return the default configuration of two models and nothing else that has blocks."""
    values = with_models(layers, vlm=vlm, base_lm=base)
    kept = ("base", "adapted", "null_text", "null_check")
    return values | {
        "models": {name: values["models"][name] for name in ("base_lm", "vlm")},
        "dictionaries": {name: values["dictionaries"][name] for name in kept},
        "evaluation": "none",
        "diff": values["diff"] | {"untuned": None, "base_model": None},
        "comparisons": {},
        "scoreboard": "none",
        "stages": {},
        "steering": "none",
    }


def refused(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(values)
    return str(error.value)


@pytest.mark.parametrize(
    ("count", "blocks", "expected"),
    [
        (1, 32, [31]),
        (2, 32, [15, 31]),
        (3, 32, [9, 20, 31]),
        (4, 26, [5, 12, 18, 25]),
        (32, 32, list(range(32))),
        (40, 3, [0, 1, 2]),
    ],
)
def test_evenly_spaced_blocks_end_with_the_last(count, blocks, expected):
    assert evenly_spaced(count, blocks) == expected


@pytest.mark.parametrize(
    ("layers", "expected"),
    [([0, 2], [0, 2]), ("all", [0, 1, 2, 3]), ({"evenly": 2}, [1, 3]), ({"evenly": 9}, [0, 1, 2, 3])],
)
def test_layers_become_a_list_by_the_worlds_depth(layers, expected):
    assert load_config(with_models(layers)).layers == expected


def test_a_world_that_is_trained_has_the_blocks_of_its_settings():
    world = {"models": "train", "language_model": {"blocks": 7, "d_model": 64}}
    assert load_config(with_models({"evenly": 3}) | {"world": world}).layers == [1, 3, 6]
    # What is shipped does not change with settings that nobody trains by.
    assert load_config(with_models("all") | {"world": world | {"models": "shipped"}}).layers == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["base_lm", "vlm", "vlm_25", "vlm_50", "vlm_75"])
def test_the_shipped_checkpoints_have_the_default_depth(name):
    folder = ROOT / "resources" / "world" / name
    found = blocks_of(ModelConfig(family="llava", path=str(folder)), None)
    shipped = blocks_of(ModelConfig(family="llava", path=f"world:{name}"), WorldConfig())
    assert found == shipped == LanguageModelTraining().blocks == 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (TWO, 2),
        ({"num_hidden_layers": 5, "vision_config": {"num_hidden_layers": 24}}, 5),
        ({"llm_config": {"num_hidden_layers": 3}, "vision_config": {}}, 3),
        ({"language_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 24}}, 4),
        ({"model_type": "gpt2", "n_layer": 6}, 6),
        ({"model_type": "mpt", "n_layers": 7}, 7),
        ({"model_type": "gpt_neo", "num_layers": 8}, 8),
        # LLaVA 1.5 writes no more of its language model than this.
        ({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}, 32),
        ({"model_type": "llava", "text_config": {"model_type": "unheard_of"}}, None),
        ({"num_hidden_layers": "many"}, None),
        ({"num_hidden_layers": True}, None),
        ({"num_hidden_layers": 0}, None),
        ({"model_type": ["llama"]}, None),
        ([1], None),
        ("{", None),
        ("[" * 100_000, None),
    ],
)
def test_a_checkpoint_tells_its_depth_or_nothing(tmp_path, values, expected):
    model = ModelConfig(family="llava", path=checkpoint(tmp_path / "vlm", values))
    assert blocks_of(model, None) == expected


@pytest.mark.parametrize("kind", DEFAULTS)
def test_what_a_published_file_leaves_out_is_the_default_of_its_class(kind):
    assert CONFIG_MAPPING[kind]().num_hidden_layers == DEFAULTS[kind]


@pytest.mark.parametrize("path", ["hub:a/b@main", "nowhere", "world:vlm"])
def test_nobody_knows_the_depth_of_what_is_not_here_unless_it_is_planned(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert blocks_of(ModelConfig(family="llava", path=path), None) is None
    planned = {"d_model": 64, "blocks": 12}
    assert blocks_of(ModelConfig(family="llava", path=path, planned=planned), None) == 12


def test_a_layer_that_a_model_lacks_is_refused_with_its_file(tmp_path):
    path = checkpoint(tmp_path / "mine", TWO)
    base = {"path": "hub:a/b"}
    said = refused(alone([0, 2, 5], {"path": path}, base))
    assert f"layers: found 2, 5, but model 'vlm' has 2 blocks ({path}/config.json)" in said
    assert "allowed are 0 to 1, `all` and {evenly: N}" in said
    assert load_config(alone([0, 1], {"path": path}, base)).layers == [0, 1]
    assert "model 'base_lm' has 4 blocks (world.language_model.blocks)" in refused(with_models([3, 4]))


@pytest.mark.parametrize("key", ["comparisons.shuffled_images.model", "steering.model", "stages.models"])
def test_every_model_that_is_named_has_all_layers(tmp_path, key):
    path = checkpoint(tmp_path / "short", TWO)
    values = with_models([0, 3], short={"family": "llava", "path": path})
    section, *keys = key.split(".")
    place = values[section]
    for part in keys[:-1]:
        place = place[part]
    place[keys[-1]] = ["short"] if keys[-1] == "models" else "short"
    assert "layers: found 3, but model 'short' has 2 blocks" in refused(values)


def test_models_that_are_compared_have_one_depth(tmp_path):
    path = checkpoint(tmp_path / "other", {"num_hidden_layers": 6})
    said = refused(with_models([0], base_lm={"path": path}))
    for words in (
        "models: 'vlm' has 4 blocks (world.language_model.blocks)",
        f"but 'base_lm' has 6 blocks ({path}/config.json)",
        "correct models.<name>.path",
    ):
        assert words in said


@pytest.mark.parametrize("layers", ["all", {"evenly": 2}])
def test_blocks_are_not_counted_before_anyone_knows_them(tmp_path, layers):
    unknown = {"path": "hub:a/b"}
    said = refused(alone(layers, unknown, unknown))
    assert f"layers: found {layers!r}, but how many blocks model 'vlm' has is not known yet" in said
    assert "write a list such as [8, 16, 24], or `planned: {d_model: …, blocks: N}` in models.vlm" in said
    # It is enough to know it of one of the two.
    path = checkpoint(tmp_path / "base", {"num_hidden_layers": 4})
    expected = [0, 1, 2, 3] if layers == "all" else [1, 3]
    assert load_config(alone(layers, unknown, {"path": path})).layers == expected
    planned = unknown | {"planned": {"d_model": 64, "blocks": 4}}
    assert load_config(alone(layers, planned, unknown)).layers == expected


def test_a_plan_that_contradicts_the_checkpoint_is_refused(tmp_path):
    path = checkpoint(tmp_path / "mine", TWO)
    vlm = {"path": path, "planned": {"d_model": 64, "blocks": 3}}
    said = refused(alone([0], vlm, {"path": "hub:a/b"}))
    assert f"models.vlm.planned.blocks: found 3, expected 2, as {path}/config.json tells" in said


@pytest.mark.parametrize("layers", ["some", "ALL", {"odd": 2}, {}, {"evenly": 2, "odd": 1}, 3, None])
def test_layers_have_three_forms(layers):
    said = refused(with_models(layers))
    assert "layers: expected a list of decoder blocks, counted from 0, or `all`, or {evenly: N}" in said


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "at least 1 item"),
        ([2, 1], "expected rising numbers from 0 on; found [2, 1]"),
        ([1, 1], "expected rising numbers"),
        ([-1, 1], "expected rising numbers"),
        ({"evenly": 0}, "layers.evenly: Input should be greater than or equal to 1"),
        (["a"], "should be a valid integer"),
    ],
)
def test_layers_are_different_blocks(layers, words):
    assert words in refused(with_models(layers))

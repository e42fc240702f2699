"""The configuration refuses what cannot work, in one message that helps."""

import copy
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from without_crosscoders import without_crosscoders

from vlmdiff.config import defaults
from vlmdiff.config.causal import ground_truth_datasets
from vlmdiff.config.checkpoints import checkpoints, snapshots
from vlmdiff.config.datasets import FolderDataset, VsrDataset, is_prepared
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.paths import Paths
from vlmdiff.config.sources import HubSource
from vlmdiff.config.subjects import ExtractionConfig, ModelConfig
from vlmdiff.models.chat import ChatFormat
from vlmdiff.models.loading import Loading

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def changed(path: str, value: object) -> dict:
    """Return the default configuration with one key set."""
    values = copy.deepcopy(DEFAULT)
    *parents, last = path.split(".")
    section = values
    for key in parents:
        section = section.setdefault(key, {})
    section[last] = value
    return values


def test_keys_that_yaml_reads_as_something_else_are_told():
    values = copy.deepcopy(DEFAULT)
    values["diff"][None] = "null_text"
    with pytest.raises(ConfigError, match=r"diff.None: found the key null, which .* put it in quotes"):
        load_config(values)


def test_a_hub_source_has_a_repository_and_a_revision():
    assert HubSource.parse("hub:google/gemma@0f1e2d3") == HubSource("google/gemma", "0f1e2d3")
    assert HubSource.parse("hub:google/gemma") == HubSource("google/gemma", "main")
    for text in ("hub:", "hub:google", "hub:google/gemma/layer", "hub:/gemma@main"):
        with pytest.raises(ValueError, match="expected hub:OWNER/NAME@REVISION"):
            HubSource.parse(text)


def test_what_may_change_has_to_be_prepared():
    assert is_prepared(VsrDataset(kind="vsr", source="hub:a/b@main", samples=1))
    assert not is_prepared(FolderDataset(path="mine", samples=1))
    assert is_prepared(FolderDataset(path="mine", samples=1, on_missing="skip"))


def test_a_configuration_is_read_without_the_libraries_of_models():
    code = (
        "import sys; from vlmdiff.config.load import load_config; from vlmdiff.config import subjects; "
        "print({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow_scripts")}
    found = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert found == "set()\n"


def test_defaults_of_the_configuration_are_those_of_the_library():
    assert ExtractionConfig().massive_ratio == defaults.MASSIVE_RATIO == 10
    model = ModelConfig(family="llava", path="/data/mine")
    assert model.prompt_date == Loading().prompt_date == ChatFormat("m").day == date(2024, 7, 26)


def test_default_is_valid():
    assert load_config(DEFAULT).experiment == "builtin"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("colour", 1, ["colour", "unknown key"]),
        ("dictionaries.adapted.learning_rat", 1e-3, ["dictionaries.adapted.learning_rat", "unknown key"]),
        ("layers", [], ["layers", "at least 1"]),
        ("layers", [2, 1], ["layers", "rising", "[2, 1]"]),
        ("dictionaries.adapted.model", "gpt", ["dictionaries.adapted.model", "'gpt'", "base_lm", "vlm"]),
        ("dictionaries.base.dataset", "coco", ["dictionaries.base.dataset", "'coco'", "vqa_train"]),
        ("diff.percentile", 140, ["diff.percentile", "less than 100", "140"]),
        ("diff.rule", "guess", ["diff.rule", "'percentile', 'calibrated' or 'energy'", "guess"]),
        ("diff.adapted", "scratch", ["diff.adapted", "starts from 'random'", "'base'"]),
        ("diff.null", "nothing", ["diff.null", "'nothing'"]),
        ("dictionaries.base.steps", "many", ["dictionaries.base.steps", "integer", "many"]),
        ("dictionaries.base.initial", "adapted", ["starts from itself"]),
        ("architecture.k", 5000, ["architecture.k", "5000", "1024"]),
        ("concepts.spatial.fdr", 2, ["concepts.spatial.fdr", "2"]),
        ("ablation.random_draws", 3, ["ablation.random_draws", "20"]),
        ("ablation.concepts", ["smell"], ["ablation.concepts", "'smell'", "spatial"]),
        ("ablation.report_on.target", "spatial_val", ["ablation.report_on.target", "spatial_val"]),
        ("experiment", "../elsewhere", ["experiment", "../elsewhere"]),
        ("dictionaries.adapted.snapshots", [50, 25], ["snapshots must rise", "[50, 25]"]),
        ("dictionaries.base.auxk_coefficient", -1, ["base.auxk_coefficient", "equal to 0", "-1"]),
        ("dictionaries.base.dead_after_tokens", 0, ["dictionaries.base.dead_after_tokens", "0"]),
        ("dictionaries.adapted.devices", 3, ["dictionaries.adapted", "batch_tokens", "multiple", "= 3"]),
    ],
)
def test_bad_value_is_named_with_what_is_allowed(path, value, words):
    with pytest.raises(ConfigError) as error:
        load_config(changed(path, value))
    for word in words:
        assert word in str(error.value)


def test_only_topk_has_an_auxiliary_loss():
    values = changed("architecture.kind", "jumprelu")
    values["dictionaries"]["base"]["auxk_coefficient"] = 0.1
    with pytest.raises(ConfigError, match="dictionaries.base.auxk_coefficient: found 0.1, but only TopK"):
        load_config(values)
    values["dictionaries"]["base"]["auxk_coefficient"] = 0
    load_config(values)


def test_a_stream_trains_in_one_process():
    values = changed("extraction.store", "stream")
    load_config(values)
    values["dictionaries"]["adapted"]["nodes"] = 2
    with pytest.raises(ConfigError, match="dictionaries.adapted: found 2 processes and `store: stream`"):
        load_config(values)


def test_every_problem_is_told_at_once():
    values = changed("seeds", 0)
    values["layers"] = "all of them"
    with pytest.raises(ConfigError, match=r"(?s)seeds.*layers|layers.*seeds"):
        load_config(values)


def leaves(section: object, path: str = "") -> list[str]:
    """List the dotted paths of all leaves of the default configuration."""
    if not isinstance(section, dict):
        return [path]
    return [leaf for key, value in section.items() for leaf in leaves(value, f"{path}.{key}".lstrip("."))]


# The first example pays for imports; how long one takes is not what is tested.
@settings(deadline=None)
@given(
    path=st.sampled_from(leaves(DEFAULT)),
    value=st.one_of(
        st.none(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2), st.booleans()
    ),
)
def test_any_leaf_with_any_value_is_taken_or_explained(path, value):
    try:
        load_config(changed(path, value))
    except ConfigError as error:
        assert str(error).startswith("The configuration is not valid:\n  ")


PUBLISHED = {
    "source": "hub:google/gemma-scope-2b-pt-res@0f1e2d3",
    "format": "gemma_scope",
    "file": "layer_{layer}/width_16k/average_l0_{l0}",
    "by_layer": {"l0": {layer: 50 + layer for layer in DEFAULT["layers"]}},
}


def with_published(**changes) -> dict:
    return changed("dictionaries.base", {**PUBLISHED, **changes})


def test_published_dictionary_has_a_file_for_each_layer():
    config = load_config(with_published())
    stage = config.dictionaries["base"]
    for layer in DEFAULT["layers"]:
        assert stage.path(layer) == f"layer_{layer}/width_16k/average_l0_{50 + layer}"
        assert stage.options(layer) == {"k": None, "subtract_decoder_bias": None, "input_scale": None}
    assert "base" not in config.trained() and "adapted" in config.trained()


def test_input_scale_may_differ_by_layer():
    scales = {layer: 1.5 + layer for layer in DEFAULT["layers"]}
    stage = load_config(with_published(input_scale=scales)).dictionaries["base"]
    assert [stage.options(layer)["input_scale"] for layer in DEFAULT["layers"]] == list(scales.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "layer_{layer}/{l1}"}, ["file", "unknown ['l1']", "'l0'"]),
        ({"file": "layer_{layer}"}, ["by_layer", "['l0'] are not used"]),
        ({"file": "layer_{layer"}, ["file", "layer_{layer"]),
        ({"file": "layer_{l0}_{}"}, ["file", "unknown ['']"]),
        ({"file": "all", "by_layer": {}}, ["dictionaries.base.file", "'all' is the same for several layers"]),
        ({"by_layer": {"l0": {0: 5}}}, ["dictionaries.base.by_layer.l0", "no value for layers"]),
        ({"by_layer": {"layer": {0: 5}}}, ["by_layer", "choose another name"]),
        ({"input_scale": 0.0}, ["input_scale", "greater than 0"]),
        ({"input_scale": {0: 1.0}}, ["dictionaries.base.input_scale", "no value for layers"]),
        ({"k": 50}, ["k", "only for format mmdiff", "gemma_scope"]),
        ({"subtract_decoder_bias": True}, ["only for format mmdiff"]),
        ({"source": "hub:google"}, ["hub:OWNER/NAME@REVISION", "hub:google"]),
        ({"format": "onnx"}, ["'llama_scope'", "onnx"]),
        ({"steps": 5}, ["dictionaries.base", "steps", "unknown key"]),
    ],
)
def test_bad_published_dictionary_is_explained(changes, words):
    with pytest.raises(ConfigError) as error:
        load_config(with_published(**changes))
    for word in words:
        assert word in str(error.value)


def test_a_model_is_what_its_path_names_and_not_what_it_is_called():
    values = copy.deepcopy(DEFAULT)
    values["models"]["early"] = values["models"].pop("vlm_25")
    values["models"]["vlm_50"]["path"] = "/data/mine"
    values["models"]["blind"] = {"family": "causal_lm", "path": "world:vlm", "text_only": True}
    for section in ("dictionaries", "comparisons"):
        for entry in values[section].values():
            if entry.get("model") == "vlm_25":
                entry["model"] = "early"
    values["stages"]["models"].remove("vlm_25")
    values["steering"]["model"] = "early"
    config = load_config(values)
    known = {"base_lm": "base_lm", "vlm": "vlm", "vlm_75": "vlm_75", "early": "vlm_25"}
    assert checkpoints(config) == known
    controls = {name: name for name in ("vlm_shuffled", "vlm_no_spatial", "lm_continued")}
    assert checkpoints(config, controls=True) == controls
    assert snapshots(config) == {"vlm": 100, "vlm_75": 75, "early": 25}
    values["models"]["vlm"]["path"] = "/data/tuned"
    assert snapshots(load_config(values)) == {}


@pytest.mark.parametrize("value", [0, 20240726, 1.7e9, "0", "1721952000", True, "today", None, "2024-13-01"])
def test_a_day_is_no_number(value):
    with pytest.raises(ConfigError, match=r"models\.vlm\.prompt_date: .*(YEAR-MONTH-DAY|valid date)"):
        load_config(changed("models.vlm.prompt_date", value))
    for good in ("2025-03-01", date(2025, 3, 1)):
        assert load_config(changed("models.vlm.prompt_date", good)).models["vlm"].prompt_date == date(
            2025, 3, 1
        )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"family": "llava"}, "tiles: found true with family 'llava', expected it with idefics3 alone"),
        ({"family": "internvl"}, "with family 'internvl', .* show a picture as a whole; leave it out"),
        ({"family": "causal_lm"}, "tiles: found true with family 'causal_lm'"),
        ({"family": "idefics3", "text_only": True}, "tiles: found true with text_only: true, which shows no"),
    ],
)
def test_tiles_are_for_what_cuts_pictures(entry, message):
    values = copy.deepcopy(DEFAULT)
    values["models"]["other"] = {"path": "/data/mine", **entry}
    assert not load_config(values).models["other"].tiles
    values["models"]["other"]["tiles"] = True
    with pytest.raises(ConfigError, match=rf"models\.other: .*{message}"):
        load_config(values)


def test_tiles_reach_the_loader():
    values = copy.deepcopy(DEFAULT)
    values["models"]["other"] = {"path": "/data/mine", "family": "idefics3", "tiles": True}
    config = load_config(values)
    files = Paths(config)
    assert Loading.of(files.subject("other")).tiles and not Loading.of(files.subject("vlm")).tiles


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({"chat": False}, False),
        ({"dtype": "bfloat16"}, False),
        ({"dtype": "float16"}, False),
        ({"attention": "eager"}, False),
        ({"family": "paligemma"}, False),
        ({"family": "causal_lm"}, False),
        ({"text_only": True}, False),
        ({"device_map": "auto"}, True),
        ({"prompt_date": "2025-01-01"}, True),
        ({"planned": {"d_model": 128}}, True),
        ({"dtype": "float32", "chat": True}, True),
    ],
)
@pytest.mark.parametrize("name", ["vlm", "vlm_50", "vlm_shuffled"])
def test_a_measurement_belongs_to_models_that_are_loaded_and_asked_as_it_was_made(name, changes, measured):
    values = copy.deepcopy(DEFAULT)
    values["models"][name] |= changes
    config = load_config(values)
    found = checkpoints(config) | checkpoints(config, controls=True)
    assert (name in found) == measured
    assert set(values["models"]) - {name, "vlm_untuned"} <= set(found)
    assert "vlm_untuned" not in found, "what was never tuned was not measured"
    if name != "vlm_shuffled":
        known = {"vlm": 100, "vlm_75": 75, "vlm_50": 50, "vlm_25": 25}
        known = known if measured else {} if name == "vlm" else {"vlm": 100, "vlm_75": 75, "vlm_25": 25}
        assert snapshots(config) == known


@pytest.mark.parametrize("name", ["vlm_50", "vlm_shuffled"])
def test_a_model_that_was_never_tuned_was_not_measured(name):
    values = without_crosscoders(copy.deepcopy(DEFAULT))
    values["models"][name] |= {"untuned": "base_lm"}
    config = load_config(values)
    assert name not in checkpoints(config) | checkpoints(config, controls=True)


@pytest.mark.parametrize("name", ["base_lm", "lm_continued"])
def test_language_models_of_the_world_are_measured_as_language_models(name):
    values = without_crosscoders(copy.deepcopy(DEFAULT))
    del values["diff"]["base_model"]
    assert name in checkpoints(load_config(values), controls=name != "base_lm")
    # Nothing may take a language model from what is none.
    values["models"]["vlm_untuned"] |= {"untuned": "another"}
    values["models"]["another"] = {"family": "causal_lm", "path": "world:base_lm"}
    values["models"][name]["family"] = "llava"
    # A model that sees is no null.
    del values["comparisons"]["model_null"], values["scoreboard"]["methods"]["drift"]
    for drift in [one for one in values["comparisons"] if one.startswith("drift")]:
        del values["comparisons"][drift]
    assert name not in checkpoints(load_config(values), controls=name != "base_lm")


def test_a_data_set_of_ones_own_has_no_scene_graphs_of_the_worlds_of_the_same_name():
    values = copy.deepcopy(DEFAULT)
    assert ground_truth_datasets(load_config(values)) == ["spatial_test", "general_test"]
    values["datasets"] = {"spatial_test": {"kind": "folder", "path": "mine", "samples": 40}}
    config = load_config(values)
    assert ground_truth_datasets(config) == ["general_test"]
    assert config.dataset("spatial_test").path == "mine"

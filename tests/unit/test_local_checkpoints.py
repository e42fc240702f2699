"""What checkpoints at hand tell against a configuration is told before anything runs, and nothing else is."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import tiny_gemma3
import tiny_internvl
import tiny_llava_next
import tiny_llava_original
import tiny_models
import tiny_paligemma
import tiny_pixtral
import tiny_qwen_vl
import tiny_smolvlm
from local_experiment import DECODER, LM, TOWER, VLM, experiment, put, write_checkpoint

from vlmdiff.config.families import MODEL_TYPES, family_of
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.local_checkpoints import checkpoint_problems, with_family
from vlmdiff.config.local_files import missing_files
from vlmdiff.models.llava_original import LlavaOriginal
from vlmdiff.models.loading import Loading
from vlmdiff.models.registry import FAMILIES

ROOT = Path(__file__).parents[2]
WORLD = ROOT / "resources" / "world"
BUILDERS = {
    "causal_lm": tiny_models.build_tiny_lm,
    "idefics3": tiny_smolvlm.build,
    "gemma3": tiny_gemma3.build,
    "internvl": tiny_internvl.build,
    "llava": tiny_models.build_tiny_vlm,
    "llava_next": tiny_llava_next.build,
    "llava_original": tiny_llava_original.build,
    "paligemma": tiny_paligemma.build,
    "pixtral": tiny_pixtral.build,
    "qwen_vl": tiny_qwen_vl.build,
}


def problems(values: dict) -> list[str]:
    return checkpoint_problems(load_config(values))


@pytest.fixture
def values(tmp_path) -> dict:
    return experiment(tmp_path)


def test_what_fits_is_not_refused(values):
    config = load_config(values)
    assert (config.models["lm"].family, config.models["vlm"].family) == ("causal_lm", "llava")
    assert checkpoint_problems(config) == missing_files(config) == []


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    tiny_llava_original.build_tower(root / "tower")
    return {family: build(root / family) for family, build in BUILDERS.items()} | {"tower": root / "tower"}


@pytest.mark.parametrize("family", BUILDERS)
def test_a_real_checkpoint_tells_its_family_and_is_whole(checkpoints, values, family):
    entry = {"path": str(checkpoints[family])}
    entry |= {"vision_tower": str(checkpoints["tower"])} if family == "llava_original" else {}
    values["models"]["other"] = entry
    values["evaluation"].append({"dictionaries": ["base"], "model": "other", "dataset": "text"})
    config = load_config(values)
    assert config.models["other"].family == family
    assert not [line for line in checkpoint_problems(config) if line.startswith("models.other")]
    wrong = "llava" if family != "llava" else "qwen_vl"
    entry |= {"family": wrong, "vision_tower": None}
    told = [line for line in problems(values) if line.startswith("models.other.family: ")]
    assert len(told) == 1 and f"'{wrong}' reads" in told[0] and str(checkpoints[family]) in told[0]
    assert f"use family {family}" in told[0].replace("'", "")


def test_the_first_checkpoints_of_the_original_layout_are_read_by_it(checkpoints, tmp_path):
    found = json.loads((checkpoints["llava_original"] / "config.json").read_text()) | {"model_type": "llava"}
    assert family_of(found) == "llava_original"
    folder = tiny_llava_original.build(tmp_path / "first")
    (folder / "config.json").write_text(json.dumps(found))
    loaded = LlavaOriginal.load("m", folder, Loading(vision_tower=str(checkpoints["tower"])))
    assert loaded.n_layers == found["num_hidden_layers"]


def test_families_that_are_loaded_are_those_that_are_told():
    assert set(MODEL_TYPES) == set(FAMILIES)


@pytest.mark.parametrize("name", ["base_lm", "vlm", "vlm_25"])
def test_shipped_checkpoints_are_of_the_family_that_their_names_stand_for(name):
    told = with_family({"models": {"one": {"path": f"world:{name}"}}})["models"]["one"]["family"]
    assert told == family_of(json.loads((WORLD / name / "config.json").read_text()))


def test_control_models_have_families_too():
    world = {"controls": {"read_on": "continued_text", "blind": "shuffled_images"}}
    entries = {name: {"path": f"world:{name}"} for name in world["controls"]}
    found = with_family({"models": entries, "world": world})["models"]
    assert {name: entry["family"] for name, entry in found.items()} == {
        "read_on": "causal_lm",
        "blind": "llava",
    }


@pytest.mark.parametrize(
    ("description", "family"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "causal_lm"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "causal_lm"),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "causal_lm"),
        ({"model_type": "llama"}, "causal_lm"),
        ({"model_type": "llava_llama", "mm_vision_tower": "clip"}, "llava_original"),
        ({"model_type": "qwen3_vl", "vision_config": {}}, "qwen_vl"),
        ({"model_type": "mistral3", "vision_config": {"model_type": "pixtral"}}, "pixtral"),
        ({"model_type": "llava", "vision_config": {"model_type": "pixtral"}}, "pixtral"),
        ({"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}, "llava"),
        ({"model_type": "llava", "vision_config": "pixtral"}, "llava"),
        ({"model_type": "qwen3_5", "vision_config": {}}, None),
        ({"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}, None),
        ({"model_type": "llava_onevision", "vision_config": {}}, "llava_next"),
        ({"model_type": "mllama", "vision_config": {}}, None),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, None),
        ({"model_type": "t5", "is_encoder_decoder": True}, None),
        ({"architectures": ["LlamaForCausalLM"]}, None),
        ({"model_type": 3}, None),
    ],
)
def test_what_config_json_tells_of_the_family(description, family):
    assert family_of(description) == family


# Description of the model under study, its entry, and what is said.
FAMILY = [
    (LM, {"family": "llava"}, "reads checkpoints of model_type llava, but {vlm} has 'llama'; use family"),
    (VLM, {"family": "causal_lm"}, "is not family 'causal_lm'; use llava (with text_only"),
    (VLM | {"model_type": "qwen2_5_vl"}, {"family": "llava"}, "{vlm} has 'qwen2_5_vl'; use family qwen_vl"),
    (VLM | {"model_type": "mllama"}, {"family": "llava"}, "has 'mllama'; families read: causal_lm (decoders"),
    (VLM | {"model_type": "mllama"}, {"family": "causal_lm"}, "family 'causal_lm'; use another checkpoint"),
    (VLM, {"family": "llava", "text_only": True}, None),
    (VLM, {"text_only": True}, None),
    (
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]}, {"family": "causal_lm"},
        "{vlm} is 'BertForMaskedLM', which writes no text",
    ),
    (
        VLM | {"vision_config": {"model_type": "pixtral"}}, {"family": "llava"},
        "model_type llava, but {vlm} has 'llava with a pixtral tower'; use family pixtral",
    ),
    (
        VLM | {"model_type": "qwen3_5"}, {"family": "qwen_vl"},
        "{vlm} has model_type 'qwen3_5', which no family reads: most of its blocks keep a running state",
    ),
    (LM | {"model_type": "qwen3_next"}, {"family": "causal_lm"}, "{vlm} has model_type 'qwen3_next', which"),
    (
        {"model_type": "llava_llama", "mm_vision_tower": "c", "mm_projector_type": "linear"},
        {"vision_tower": "{tower}"},
        "its config.json has mm_projector_type = 'linear', but family 'llava_original' reads 'mlp2x_gelu'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("description", "entry", "said"), FAMILY)
def test_the_family_is_held_against_the_checkpoint(values, tmp_path, description, entry, said):
    places = {"vlm": str(tmp_path / "vlm"), "tower": str(write_checkpoint(tmp_path / "tower", TOWER))}
    write_checkpoint(tmp_path / "vlm", description)
    entry = {key: value.format(**places) if isinstance(value, str) else value for key, value in entry.items()}
    values["models"]["vlm"] |= entry
    told = [line for line in problems(values) if line.startswith("models.vlm.family")]
    assert told == [] if said is None else len(told) == 1 and said.format(**places) in told[0]


HUB = "hub:some/model@main"
UNTOLD = [
    ({"path": HUB}, None, f"missing; it is read from config.json of a folder, and '{HUB}' is not here"),
    (
        {"path": "{root}/vlmm"}, None,
        "missing, and so is the checkpoint that would tell it: found '{root}/vlmm', but there is no folder "
        "{root}/vlmm; did you mean {root}/vlm?",
    ),
    (
        {"path": "{root}/vlm"}, VLM | {"model_type": "mllama"},
        "missing, and {root}/vlm has model_type 'mllama', which no family reads",
    ),
    (
        {"path": "{root}/vlm"}, VLM | {"model_type": "qwen3_5"},
        "missing, and {root}/vlm has model_type 'qwen3_5', which no family reads: most of its blocks keep",
    ),
    ({"path": "{root}/vlm"}, "{", "missing, and {root}/vlm/config.json is no JSON or cut off"),
    ({}, None, "missing; families and what they read"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "description", "said"), UNTOLD)
def test_a_family_that_nothing_tells_has_to_be_named(values, tmp_path, entry, description, said):
    if description is not None:
        text = description if isinstance(description, str) else json.dumps(description)
        (tmp_path / "vlm" / "config.json").write_text(text)
    values["models"]["vlm"] = {key: value.replace("{root}", str(tmp_path)) for key, value in entry.items()}
    with pytest.raises(ConfigError) as error:
        load_config(values)
    assert f"models.vlm.family: {said.replace('{root}', str(tmp_path))}" in str(error.value)


@pytest.mark.parametrize(
    "values", [None, [], {}, {"models": None}, {"models": {"a": None, "b": {"path": 3}}}]
)
def test_what_is_no_configuration_is_left_to_the_schema(values):
    assert with_family(values) == values


def test_a_named_family_stays(values):
    values["models"]["vlm"]["family"] = "paligemma"
    assert with_family(values)["models"]["vlm"]["family"] == "paligemma"


def index(folder: Path, names: dict[str, str]) -> None:
    """Put an index of weights into the place of the one file."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def lost(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def in_place_of_weights(name: str):
    def change(folder: Path) -> None:
        lost("model.safetensors")(folder)
        (folder / name).write_bytes(b"")

    return change


def written(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


HEADER = b'{"one": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(HEADER)) + HEADER + b"\0\0\0")


def linked(folder: Path) -> None:
    lost("model.safetensors")(folder)
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "gone")


def only_an_adapter(folder: Path) -> None:
    in_place_of_weights("adapter_model.safetensors")(folder)
    (folder / "adapter_config.json").write_text("{}")


DAMAGES = {
    "no tokenizer": (lost("tokenizer.json"), "{vlm} holds no files of a tokenizer, expected tokenizer.json"),
    "no processor": (lost("preprocessor_config.json"), "{vlm} holds no settings of an image processor"),
    "no weights": (lost("model.safetensors"), "{vlm} holds no weights, expected model.safetensors, or"),
    "weights of another name": (in_place_of_weights("b.safetensors"), "found b.safetensors in {vlm}, exp"),
    "a shard is missing": (
        lambda folder: index(folder, {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}),
        "{vlm}/model.safetensors.index.json names 2 files, and 2 of them are not there: 1.safetensors, 2",
    ),
    "an index of nothing": (lambda folder: index(folder, {}), "expected a `weight_map` that names the files"),
    "an adapter": (only_an_adapter, "{vlm}/adapter_config.json is a LoRA adapter, not a whole model"),
    "an adapter beside": (written("adapter_config.json", b"{}"), "{vlm} holds a whole model and a LoRA"),
    "gguf": (in_place_of_weights("q4.gguf"), "{vlm}/q4.gguf is a GGUF file, which transformers does"),
    "own format": (in_place_of_weights("consolidated.00.pth"), "{vlm}/consolidated.00.pth is weights in"),
    "cut off": (cut, f"/model.safetensors: found {len(HEADER) + 11} bytes, expected {len(HEADER) + 12}"),
    "no safetensors": (written("model.safetensors", b"<html>"), "/model.safetensors is no file of"),
    "a pointer": (
        written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "{vlm}/model.safetensors is a pointer of git-lfs and not the file itself; run `git lfs pull`",
    ),
    "links to nothing": (linked, "{vlm} links to 1 files that are gone, first model.safetensors"),
    "no JSON": (written("config.json", b"{"), "{vlm}/config.json is no JSON or cut off"),
    "a list": (written("config.json", b"[]"), "{vlm}/config.json: expected a JSON object, found list"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_part_that_is_missing_is_named(values, tmp_path, name):
    damage, said = DAMAGES[name]
    damage(tmp_path / "vlm")
    values["models"]["vlm"]["family"] = "llava"
    told = problems(values)
    assert len(told) == 1, told
    assert told[0].startswith("models.vlm.path: ") and said.format(vlm=tmp_path / "vlm") in told[0]


def test_a_language_model_needs_no_processor_and_an_index_no_single_file(values, tmp_path):
    folder = tmp_path / "lm"
    (folder / "model.safetensors").rename(folder / "half.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"one": "half.safetensors"}})
    )
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert problems(values) == []


@pytest.mark.parametrize("name", ["adapter_config.json", "model.gguf"])
def test_a_folder_without_config_json_is_told_for_what_it_is(values, tmp_path, name):
    (tmp_path / "vlm" / "config.json").unlink()
    (tmp_path / "vlm" / name).write_bytes(b"{}")
    values["models"]["vlm"]["family"] = "llava"
    (told,) = missing_files(load_config(values))
    assert f"{tmp_path}/vlm/{name} is a " in told


def test_a_gguf_file_is_no_folder(values, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    values["models"]["vlm"] = {"family": "llava", "path": str(file)}
    (told,) = missing_files(load_config(values))
    assert f"{file} is a GGUF file, which transformers does not load" in told


def test_the_world_has_its_families(values):
    values["world"] = {}
    values["models"]["vlm"] = {"path": "world:vlm", "family": "causal_lm"}
    values["models"]["lm"] = {"path": "world:base_lm"}
    told = [line for line in problems(values) if ".family" in line]
    assert told == ["models.vlm.family: found 'causal_lm', but world:vlm is of family 'llava'; leave it out"]


ORIGINAL = {"model_type": "llava_llama", "mm_vision_tower": "clip", **DECODER}


def tower(values: dict, root: Path, description: dict, processor: bool = True) -> None:
    write_checkpoint(root / "tower", description, processor)
    write_checkpoint(root / "vlm", ORIGINAL, processor=False)
    values["models"]["vlm"] |= {"vision_tower": str(root / "tower")}


def test_a_tower_that_lies_apart_is_checked_too(values, tmp_path):
    tower(values, tmp_path, TOWER)
    assert problems(values) == []
    (tmp_path / "tower" / "model.safetensors").unlink()
    assert "models.vlm.vision_tower: " in problems(values)[0] and "holds no weights" in problems(values)[0]
    # Its weights may be part of the checkpoint.
    index(tmp_path / "vlm", {"model.vision_tower.vision_tower.w": "a.safetensors"})
    write_checkpoint(tmp_path / "a", LM)
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "vlm" / "a.safetensors")
    assert problems(values) == []


@pytest.mark.parametrize(
    ("description", "processor", "said"),
    [
        ({"model_type": "dinov2"}, True, "'dinov2', expected the vision tower of CLIP or SigLIP"),
        (TOWER, False, "holds no settings of an image processor"),
        ({"model_type": "clip", "vision_config": {}}, True, None),
        ({"model_type": "siglip", "vision_config": {}}, True, None),
        ({"model_type": "siglip_vision_model"}, True, None),
    ],
)  # fmt: skip
def test_a_tower_is_of_a_kind_that_is_read(values, tmp_path, description, processor, said):
    tower(values, tmp_path, description, processor)
    told = problems(values)
    assert told == [] if said is None else len(told) == 1 and said in told[0]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"family": "llava", "vision_tower": "hub:a/b"},
            "vision_tower: found 'hub:a/b' with family 'llava', expected it with family 'llava_original'",
        ),
        (
            {"family": "llava_original"},
            "vision_tower: missing; family 'llava_original' needs the folder or hub repository of its vision",
        ),
        (
            {"family": "paligemma", "attention": "flash_attention_2"},
            "attention: found 'flash_attention_2' with family 'paligemma', which cannot let a prompt see",
        ),
    ],
)  # fmt: skip
def test_what_a_family_cannot_have_is_refused(values, entry, said):
    values["models"]["vlm"] |= entry
    with pytest.raises(ConfigError) as error:
        load_config(values)
    assert f"models.vlm: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 44}, "a language model of residual width 44, expected 48 as in 'bare'"),
        (
            {"num_hidden_layers": 2, "num_attention_heads": 5},
            "of number of blocks 2, expected 3; number of heads 5, expected 6",
        ),
        ({"vocab_size": 92}, "of 92 tokens, expected at most 91"),
        ({"vocab_size": 91}, None),
        ({"vocab_size": 60}, None),
    ],
)  # fmt: skip
def test_a_language_model_fits_into_the_frame(values, tmp_path, changes, said):
    write_checkpoint(tmp_path / "other", LM | changes)
    values["models"] |= {"other": {"path": str(tmp_path / "other")}}
    values["models"]["bare"] = {"path": str(tmp_path / "vlm"), "untuned": "other"}
    told = [line for line in problems(values) if line.startswith("models.bare.untuned")]
    assert told == [] if said is None else len(told) == 1 and said in told[0]


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("dictionaries.adapted.model", "wide"),
        ("evaluation.0.model", "wide"),
    ],
)
def test_models_of_one_dictionary_have_one_width(values, tmp_path, key, model):
    write_checkpoint(tmp_path / "wide", LM | {"hidden_size": 56})
    values["models"]["wide"] = {"path": str(tmp_path / "wide")}
    if key.startswith("evaluation"):
        values["evaluation"][0]["model"] = model
    else:
        put(values, key, model)
        values["diff"]["model"] = model
    told = problems(values)
    said = f"{key}: found 'wide' of residual width 56, but dictionary 'base' is trained on 'lm' of width 48"
    assert any(line.startswith(said) for line in told)

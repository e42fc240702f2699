"""Damaged checkpoints: refused with the folder and the remedy, or loaded with the very same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_llava_next
import torch
from damage import damaged_bytes, damaged_json, outcome, refused, tries
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import build_tiny_lm

from vlmdiff.models.registry import load_subject

SMALL = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return build_tiny_lm(tmp_path_factory.mktemp("models") / "lm")


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "lm")


def load(folder: Path):
    return lambda: load_subject("lm", {"family": "causal_lm"}, folder)


@pytest.mark.parametrize("name", SMALL)
@tries(12)
@given(data=st.data())
def test_damaged_bytes_of_a_small_file_are_refused_or_harmless(whole, folder, name, data):
    if not (whole / name).is_file():
        pytest.skip(f"this version of transformers writes no {name}")
    (folder / name).write_bytes(data.draw(damaged_bytes((whole / name).read_bytes())))
    outcome(load(folder), folder, "models.lm")


@tries(40)
@given(data=st.data())
def test_a_damaged_description_is_refused_or_loads_all_weights(whole, folder, data):
    values = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data.draw(damaged_json(values))[2]))
    subject, message = outcome(load(folder), folder, "models.lm")
    if message is None:
        state, expected = subject.model.state_dict(), load_file(whole / "model.safetensors")
        assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_weights_are_refused(folder, share):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(load(folder), folder)


@pytest.mark.parametrize(
    ("written", "told", "first"),
    [
        ({}, {"num_hidden_layers": 2}, "model.layers.2.input_layernorm.weight"),
        ({"attention_bias": True}, {"attention_bias": False}, "model.layers.0.self_attn.k_proj.bias"),
    ],
)
def test_weights_that_the_description_leaves_out_are_refused(tmp_path, written, told, first):
    """Transformers would drop them: another model, which runs."""
    folder = build_tiny_lm(tmp_path, **written)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | told))
    found = refused(load(folder), folder)
    assert f"weights that the checkpoint has, among them ['{first}'" in found


@pytest.mark.parametrize("kind", sorted(tiny_llava_next.CLASSES))
def test_blocks_that_a_vision_language_model_leaves_out_are_refused(tmp_path, kind):
    """Of the language model; the last blocks of a tower, of which nobody takes anything, are left out."""
    folder = tiny_llava_next.build(tmp_path, layers=3, kind=kind)
    spec = {"family": "llava" if kind == "interleave" else "llava_next"}
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["num_hidden_layers"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    assert load_subject("vlm", spec, folder, "cpu").n_layers == 3
    values["text_config"] |= {"num_hidden_layers": 2, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(values))
    found = refused(lambda: load_subject("vlm", spec, folder, "cpu"), folder)
    assert "weights that the checkpoint has, among them ['model.language_model.layers.2." in found


def test_weights_without_a_place_that_are_not_the_decoders_are_nobodys_concern(folder):
    file = folder / "model.safetensors"
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "score.weight": torch.ones(2, 32)}
    # A block that foretells a further token, as DeepSeek's.
    more["model.layers.3.eh_proj.weight"] = torch.ones(32, 64)
    save_file(load_file(file) | more, file, metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_nextn_predict_layers": 1}))
    load(folder)()


def test_lost_weights_are_refused(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.norm.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    assert "weights are missing" in refused(load(folder), folder)
    file.unlink()
    refused(load(folder), folder)


def test_weights_of_another_shape_are_refused(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(5)
    save_file(tensors, file, metadata={"format": "pt"})
    refused(load(folder), folder)


def test_a_link_to_nothing_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    assert "links to files that are gone" in refused(load(folder), folder)

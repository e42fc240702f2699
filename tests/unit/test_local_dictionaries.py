"""Published dictionaries in folders are told to be whole and of the right shape before anything runs."""

from __future__ import annotations

from pathlib import Path

import published_dictionaries as published
import pytest
from local_experiment import LM, VLM, experiment, put, write_checkpoint

from vlmdiff.config.load import load_config
from vlmdiff.dictionaries.local_dictionaries import dictionary_problems

WRITE = {
    "llama_scope": lambda place, weights: published.write_llama_scope(place / "L1", weights),
    "gemma_scope": lambda place, weights: published.write_gemma_scope(place / "L1", weights),
    "gemma_scope_2": lambda place, weights: published.write_gemma_scope_2(place / "L1", weights),
    "mmdiff": lambda place, weights: published.write_mmdiff(place / "L1", weights),
    "saelens": lambda place, weights: published.write_saelens(place / "L1", weights, {}),
    "sparsify": lambda place, weights: published.write_sparsify(place / "L1", weights),
    "openmoss": lambda place, weights: published.write_openmoss(place / "L1", weights),
    "dictionary_learning": lambda place, weights: published.write_dictionary_learning(
        place / "L1", weights, "BatchTopKSAE"
    ),
}
LAST = {
    "llama_scope": "checkpoints/final.safetensors",
    "gemma_scope": "params.npz",
    "gemma_scope_2": "params.safetensors",
    "saelens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
    "openmoss": "sae_weights.safetensors",
    "dictionary_learning": "config.json",
}


def config_of(root: Path, kind: str, **changes):
    """Return an experiment whose base dictionary was published, for models of its width."""
    values = experiment(root)
    for name, description in (("lm", LM), ("vlm", VLM)):
        decoder = {"hidden_size": published.D_MODEL}
        text = description["text_config"] | decoder if name == "vlm" else None
        write_checkpoint(root / name, description | ({"text_config": text} if text else decoder))
    WRITE[kind](root / "published", published.random_weights())
    put(values, "architecture", {"d_sae": published.D_SAE, "k": 4})
    k = {"k": 6} if kind == "mmdiff" else {}
    entry = {"source": str(root / "published"), "format": kind, "file": "L{layer}", "input_scale": 1.0, **k}
    put(values, "dictionaries.base", entry)
    for path, value in changes.items():
        put(values, path, value)
    return load_config(values)


@pytest.mark.parametrize("kind", WRITE)
def test_what_fits_is_not_refused(tmp_path, kind):
    assert dictionary_problems(config_of(tmp_path, kind)) == []


@pytest.mark.parametrize("kind", LAST)
def test_a_shape_of_another_model_or_experiment_is_refused(tmp_path, kind):
    config = config_of(tmp_path / "wide", kind, **{"architecture": {"d_sae": 48, "k": 4}})
    (told,) = dictionary_problems(config)
    place = f"{tmp_path}/wide/published/L1"
    assert told.startswith(
        f"dictionaries.base.file: {place} has (d_model, d_sae) = (16, 96), expected (16, 48)"
    )
    config = config_of(tmp_path / "other", kind)
    write_checkpoint(tmp_path / "other" / "vlm", VLM)
    (told,) = dictionary_problems(config)
    assert "has (d_model, d_sae) = (16, 96), expected (48, 96): the width of model 'vlm'" in told


@pytest.mark.parametrize("kind", LAST)
def test_a_file_that_is_missing_or_cut_off_is_named(tmp_path, kind):
    config = config_of(tmp_path, kind)
    file = tmp_path / "published" / "L1" / LAST[kind]
    file.write_bytes(file.read_bytes()[:-100])
    (told,) = dictionary_problems(config)
    assert told.startswith(f"dictionaries.base.file: {file}")
    assert ("cut off" in told) == (kind in ("gemma_scope", "dictionary_learning")) and "again" in told
    file.unlink()
    (told,) = dictionary_problems(config)
    assert told.startswith(f"dictionaries.base.file: {file} is not there; format {kind} is made of <file>/")


@pytest.mark.parametrize("kind", ["sparsify", "openmoss", "dictionary_learning"])
def test_a_folder_of_another_format_is_named(tmp_path, kind):
    config = config_of(tmp_path, kind, **{"dictionaries.base.format": "llama_scope"})
    (told,) = dictionary_problems(config)
    assert "L1/hyperparams.json is not there" in told
    assert told.endswith(f"correct `file` or `format` (what is there is {kind})")


def test_a_folder_of_another_format_lacks_files(tmp_path):
    config = config_of(tmp_path, "gemma_scope", **{"dictionaries.base.format": "saelens"})
    (told,) = dictionary_problems(config)
    assert (
        "L1/cfg.json is not there; format saelens is made of <file>/cfg.json, <file>/sae_weights.saf" in told
    )

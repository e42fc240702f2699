"""Damaged dictionaries, own and published: refused with the file and the remedy, or exactly as written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged_bytes, damaged_json, outcome, refused, tries
from hypothesis import assume, given
from hypothesis import strategies as st
from published_dictionaries import (
    D_MODEL,
    D_SAE,
    K,
    random_weights,
    write_dictionary_learning,
    write_gemma_scope,
    write_llama_scope,
    write_mmdiff,
    write_openmoss,
    write_saelens,
    write_sparsify,
)
from safetensors.torch import load_file, save_file
from sparse_activations import write_sparse_shards

from vlmdiff.dictionaries.evaluation import evaluate_dictionary
from vlmdiff.dictionaries.files import PublishedSource, load_dictionary, save_dictionary
from vlmdiff.dictionaries.importing import import_dictionary, model_width
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.partial_reads import feature_rows, load_encoder
from vlmdiff.features.statistics import feature_statistics

SAELENS = {"architecture": "topk", "k": K, "d_in": D_MODEL, "d_sae": D_SAE, "normalize_activations": "none",
           "apply_b_dec_to_input": True, "metadata": {"hook_name": "blocks.0.hook_resid_post"}}  # fmt: skip
WEIGHTS = "sae_weights.safetensors"


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def own(folder: Path, kind: str = "topk") -> Path:
    dictionary = TopKDictionary(D_MODEL, D_SAE, K) if kind == "topk" else JumpReLUDictionary(D_MODEL, D_SAE)
    with torch.no_grad():
        for name, value in random_weights(unit_rows=True).items():
            if name != "threshold":
                getattr(dictionary, name).copy_(value)
    save_dictionary(dictionary, folder, {"input_scale": 0.5, "layer": 0})
    return folder


def publish(kind: str, folder: Path) -> PublishedSource:
    weights = random_weights()
    if kind == "llama_scope":
        return PublishedSource(kind, write_llama_scope(folder / "L0", weights, torch.float32))
    if kind == "gemma_scope":
        return PublishedSource(kind, write_gemma_scope(folder / "layer_0", weights))
    if kind == "mmdiff":
        return PublishedSource(kind, write_mmdiff(folder / "layer_0.pt", weights))
    if kind == "sparsify":
        return PublishedSource(kind, write_sparsify(folder / "layers.0", weights))
    if kind == "openmoss":
        return PublishedSource(kind, write_openmoss(folder / "L0", weights))
    if kind == "dictionary_learning":
        return PublishedSource(
            kind, write_dictionary_learning(folder / "trainer_0", weights, "JumpReluAutoEncoder")
        )
    del weights["threshold"]
    return PublishedSource(kind, write_saelens(folder / "sae", weights, SAELENS))


def files(source: PublishedSource) -> list[Path]:
    path = Path(source.path)
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def alike(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state, expected = one.state_dict(), other.state_dict()
    return set(state) == set(expected) and all(torch.allclose(state[name], expected[name]) for name in state)


KINDS = ("llama_scope", "gemma_scope", "mmdiff", "saelens", "sparsify", "openmoss", "dictionary_learning")
LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
NAMES = {
    "llama_scope": {**LINEAR, "W_dec": "decoder.weight", "b_dec": "decoder.bias"},
    "sparsify": LINEAR,
    "openmoss": {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D",
                 "threshold": "activation_function.log_jumprelu_threshold"},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["own", *KINDS])
@tries(40)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_weights_of_the_same_shape(tmp_path, kind, data):
    """What carries no checksum of its own is compared with the record of the job that wrote it."""
    empty(tmp_path)
    source = own(tmp_path / "sae") if kind == "own" else publish(kind, tmp_path)
    found = files(source) if isinstance(source, PublishedSource) else sorted(source.iterdir())
    file = data.draw(st.sampled_from(found))
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    dictionary, message = outcome(lambda: load_dictionary(source), file, file.parent)
    if message is None:
        assert (dictionary.d_model, dictionary.d_sae) == (D_MODEL, D_SAE)
        assert all(value.isfinite().all() or name == "log_threshold"
                   for name, value in dictionary.state_dict().items())  # fmt: skip


@pytest.mark.parametrize("kind", ["own", *KINDS])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
def test_truncated_weights_are_refused(tmp_path, kind, share):
    source = own(tmp_path / "sae") if kind == "own" else publish(kind, tmp_path)
    found = files(source) if isinstance(source, PublishedSource) else sorted(source.iterdir())
    file = max(found, key=lambda one: one.stat().st_size)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(lambda: load_dictionary(source), file)


@tries(120)
@given(data=st.data())
def test_a_damaged_configuration_is_refused_or_changes_no_weight(tmp_path, data):
    folder = own(tmp_path / "sae")
    whole, values = load_dictionary(folder), json.loads((folder / "cfg.json").read_text())
    path, new, damaged = data.draw(damaged_json(values))
    (folder / "cfg.json").write_text(json.dumps(damaged))
    dictionary, message = outcome(lambda: load_dictionary(folder), folder)
    if message is None and damaged.get("architecture") == "topk":
        changed = path and path[0] in ("k", "apply_b_dec_to_input")
        assert changed or alike(dictionary, whole)
        assert 1 <= dictionary.k <= D_SAE
    if path[0] in ("d_in", "d_sae") and new not in (..., values[path[0]]):
        assert message is not None


@pytest.mark.parametrize("kind", ["llama_scope", "saelens", "sparsify", "openmoss", "dictionary_learning"])
@tries(120)
@given(data=st.data())
def test_a_damaged_published_configuration_is_refused_or_read(tmp_path, kind, data):
    empty(tmp_path)
    source = publish(kind, tmp_path)
    file = next(one for one in files(source) if one.suffix == ".json")
    _, _, damaged = data.draw(damaged_json(json.loads(file.read_text())))
    file.write_text(json.dumps(damaged))
    dictionary, message = outcome(lambda: load_dictionary(source), file, file.parent)
    if message is None:
        assert all(torch.isfinite(getattr(dictionary, name)).all() for name in ("W_enc", "W_dec", "b_enc"))
        assert getattr(dictionary, "k", 1) <= D_SAE
        assert not getattr(dictionary, "threshold", torch.zeros(1)).isnan().any()


TENSORS = st.sampled_from(["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
WRONG = {
    "nan": lambda one: one.index_fill(0, torch.tensor([1]), float("nan")),
    "infinite": lambda one: one.index_fill(0, torch.tensor([0]), float("inf")),
    "too large for 32 bits": lambda one: one.double() * 1e300,
    "longer": lambda one: torch.cat([one, one[:1]]),
    "shorter": lambda one: one[:-1],
    "transposed twice": lambda one: one[None],
    "no dimension": lambda one: one.flatten()[0],
    "empty": lambda one: one[:0],
    "whole numbers": lambda one: one.int(),
    "truth values": lambda one: one > 0,
    "complex": lambda one: one + 1j,
}


@pytest.mark.parametrize("kind", ["own", "own jumprelu", *KINDS])
@tries(45)
@given(name=TENSORS, how=st.sampled_from(sorted(WRONG)))
def test_wrong_tensors_are_refused(tmp_path, kind, name, how):
    empty(tmp_path)
    if kind.startswith("own"):
        folder = own(tmp_path / "sae", "jumprelu" if "jumprelu" in kind else "topk")
        source, file, names = folder, folder / WEIGHTS, {}
    else:
        source = publish(kind, tmp_path)
        file = max(files(source), key=lambda one: one.stat().st_size)
        names = NAMES.get(kind, {})
    name = names.get(name, name)
    if file.suffix == ".safetensors":
        tensors = load_file(file)
    else:
        tensors = (
            torch.load(file)
            if file.suffix == ".pt"
            else {n: torch.from_numpy(a) for n, a in np.load(file).items()}
        )
    # A single threshold for all features is a way to publish them.
    assume(name in tensors and not (kind == "mmdiff" and name == "threshold" and how == "no dimension"))
    # A TopK dictionary of SAELens has no thresholds to read.
    assume(not (kind == "saelens" and name == "threshold"))
    tensors[name] = WRONG[how](tensors[name]).contiguous()
    if file.suffix == ".pt":
        torch.save(tensors, file)
    elif file.suffix == ".npz":
        np.savez(file, **{n: one.numpy() for n, one in tensors.items()})
    else:
        save_file(tensors, file)
    message = refused(lambda: load_dictionary(source), file, file.parent)
    assert "Remake it" in message or "download" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16, torch.int32])
def test_own_weights_of_another_type_are_refused_by_every_reader(tmp_path, dtype):
    folder = own(tmp_path / "sae")
    save_file({name: one.to(dtype) for name, one in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    refused(lambda: load_dictionary(folder), folder / WEIGHTS)

    def some_rows():
        with feature_rows(folder) as file:
            return file.decoder(0, 3)

    refused(some_rows, folder / WEIGHTS)


def test_a_negative_threshold_of_our_own_is_refused(tmp_path):
    folder = own(tmp_path / "sae", "jumprelu")
    tensors = load_file(folder / WEIGHTS)
    tensors["threshold"][3] = -0.5
    save_file(tensors, folder / WEIGHTS)
    assert "negative" in refused(lambda: load_dictionary(folder), folder / WEIGHTS)


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "threshold"])
def test_a_lost_tensor_and_one_too_many_are_refused(tmp_path, name):
    for kind in KINDS:
        source = publish(kind, tmp_path / kind)
        file = max(files(source), key=lambda one: one.stat().st_size)
        if file.suffix == ".pt" and name != "threshold":
            torch.save({n: one for n, one in torch.load(file).items() if n != name}, file)
            refused(lambda source=source: load_dictionary(source), file)
    folder = own(tmp_path / "sae", "jumprelu")
    tensors = load_file(folder / WEIGHTS)
    save_file({n: one for n, one in tensors.items() if n != name}, folder / WEIGHTS)
    refused(lambda: load_dictionary(folder), folder / WEIGHTS)
    save_file({**tensors, "more": torch.zeros(1)}, folder / WEIGHTS)
    refused(lambda: load_dictionary(folder), folder / WEIGHTS)


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    content: dict = {"step": 1}
    content["state"] = content
    torch.save(content, tmp_path / "layer_0.pt")
    refused(lambda: load_dictionary(PublishedSource("mmdiff", tmp_path / "layer_0.pt")), "layer_0.pt")


@pytest.mark.parametrize("k", [D_SAE + 1, 10**9])
def test_more_active_features_than_there_are_is_refused(tmp_path, k):
    weights = random_weights()
    del weights["threshold"]
    path = write_mmdiff(tmp_path / "layer_0.pt", weights)
    assert str(D_SAE) in refused(lambda: load_dictionary(PublishedSource("mmdiff", path, k=k)), path)


def test_a_dictionary_of_another_width_is_refused_by_every_stage(tmp_path):
    shards = write_sparse_shards(tmp_path / "shards", tokens=400, d_model=D_MODEL + 1, layers=(0,), blocks=1)
    folder = own(tmp_path / "sae")
    tables = [tmp_path / f"{name}.parquet" for name in "abc"]
    words = (f"{D_MODEL} dimensions", str(D_MODEL + 1))
    message = refused(lambda: feature_statistics(shards, folder, 0, tables, 2), folder)
    assert all(word in message for word in words)
    refused(lambda: load_encoder(folder, "cpu", D_MODEL + 1), folder)
    sets = [{"model": "m", "dataset": "d", "tokens": ["text"], "shards": {0: shards}}]
    refused(lambda: evaluate_dictionary({0: folder}, {}, [], sets, "base", 0, tmp_path / "m.csv"), folder)
    assert not [*tmp_path.glob("*.parquet"), *tmp_path.glob("*.csv")]


NOTED = {"source": "x", "commit": None, "files": {"0": "layer_0"}, "paths": {"0": "/none/layer_0"}}


@tries(60)
@given(damage=damaged_json(NOTED))
def test_a_damaged_note_of_sources_is_refused(tmp_path, damage):
    file = tmp_path / "sources.json"
    file.write_text(json.dumps(damage[2]))
    options = {"k": None, "subtract_decoder_bias": None, "input_scale": None}
    refused(
        lambda: import_dictionary(file, 0, "saelens", options, (None, D_SAE), {}, tmp_path / "out"),
        file, "cfg.json",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


@tries(40)
@given(data=damaged_bytes(json.dumps({"model_type": "llava", "text_config": {"hidden_size": 64}}).encode()))
def test_a_damaged_description_of_the_model_is_refused_or_told(tmp_path, data):
    file = tmp_path / "config.json"
    file.write_bytes(data)
    width, _ = outcome(lambda: model_width(file), file)
    assert width is None or isinstance(width, int)

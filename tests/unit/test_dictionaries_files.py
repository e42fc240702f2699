"""Dictionaries on disk: round trips, SAELens' keys, damage."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_dictionaries_modules import D_MODEL, D_SAE, randomise, tokens

from vlmdiff.dictionaries.files import is_own, load_dictionary, load_weights, save_dictionary
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.weights import CONFIG, WEIGHTS, DictionaryError


@pytest.fixture(params=["topk", "jumprelu"])
def dictionary(request):
    kind = (TopKDictionary, 5) if request.param == "topk" else (JumpReLUDictionary, 0.1)
    return randomise(kind[0](D_MODEL, D_SAE, kind[1], subtract_decoder_bias=request.param == "topk"))


@pytest.fixture
def folder(dictionary, tmp_path):
    save_dictionary(dictionary, tmp_path / "saved", {"model": "vlm", "layer": 3})
    return tmp_path / "saved"


def change_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"normalize_activations": "layer_norm"},
        {"reshape_activations": "hook_z"},
        {"rescale_acts_by_decoder_norm": True},
        {"architecture": "standard"},
        {"metadata": {"sae_lens_version": "6.0"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_of_saelens_own_conventions_is_not_ours(folder, change):
    assert is_own(folder)
    change_config(folder, **change)
    assert not is_own(folder)


def test_round_trip(dictionary, folder):
    loaded = load_dictionary(folder)
    assert type(loaded) is type(dictionary)
    assert loaded.subtract_decoder_bias == dictionary.subtract_decoder_bias
    torch.testing.assert_close(loaded.encode(tokens()), dictionary.encode(tokens()))
    torch.testing.assert_close(loaded(tokens()), dictionary(tokens()))


def test_weights_are_arrays_by_their_names_on_disk(dictionary, folder):
    weights = load_weights(folder)
    expected = {"W_enc", "b_enc", "W_dec", "b_dec"} | (
        {"threshold"} if dictionary.kind == "jumprelu" else set()
    )
    assert set(weights) == expected
    np.testing.assert_array_equal(weights["W_dec"], dictionary.W_dec.detach().numpy())


def test_configuration_has_the_keys_of_saelens(dictionary, folder):
    config = json.loads((folder / CONFIG).read_text())
    assert config["architecture"] == dictionary.kind
    assert (config["d_in"], config["d_sae"]) == (D_MODEL, D_SAE)
    assert config["apply_b_dec_to_input"] is dictionary.subtract_decoder_bias
    assert config["normalize_activations"] == "none"
    assert config["metadata"] == {"model": "vlm", "layer": 3}
    if dictionary.kind == "topk":
        assert config["k"] == 5 and config["rescale_acts_by_decoder_norm"] is False


def test_saving_twice_gives_the_same_bytes(dictionary, folder, tmp_path):
    save_dictionary(dictionary, tmp_path / "again", {"model": "vlm", "layer": 3})
    for name in (WEIGHTS, CONFIG):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(DictionaryError, match=f"{name}: not found.*run snakemake again"):
        load_dictionary(folder)


def test_truncated_weights(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(DictionaryError, match="cannot be read"):
        load_dictionary(folder)


def test_damaged_configuration(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(DictionaryError, match="not valid JSON"):
        load_dictionary(folder)


def test_unknown_architecture(folder):
    change_config(folder, architecture="gated")
    with pytest.raises(DictionaryError, match="unknown architecture 'gated'; known are .*topk"):
        load_dictionary(folder)


def test_wrong_shape(folder):
    change_config(folder, d_sae=D_SAE + 1)
    with pytest.raises(DictionaryError, match=f"has shape .*{D_SAE}.*asks for .*{D_SAE + 1}"):
        load_dictionary(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(folder, value):
    weights = load_file(folder / WEIGHTS)
    weights["b_enc"][3] = value
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(DictionaryError, match="b_enc holds NaN or infinite"):
        load_weights(folder)


def test_missing_tensor(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["b_dec"]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(DictionaryError, match="found tensors .*expected .*b_dec"):
        load_weights(folder)


def test_values_that_are_not_finite_are_not_saved(dictionary, tmp_path):
    with torch.no_grad():
        dictionary.W_enc[0, 0] = float("nan")
    with pytest.raises(DictionaryError, match="W_enc holds NaN"):
        save_dictionary(dictionary, tmp_path / "bad", {})
    assert not (tmp_path / "bad" / WEIGHTS).exists()


def test_reading_weights_needs_no_torch(folder):
    code = (
        "import sys; from vlmdiff.dictionaries.files import load_weights; "
        f"load_weights({str(folder)!r}); sys.exit('torch' in sys.modules)"
    )
    scripts = next(path for path in sys.path if path.endswith("workflow_scripts"))
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": scripts}).returncode == 0

"""Crosscoders in the layout of arXiv 2504.02922, against their definition."""

from __future__ import annotations

import json

import pytest
import torch
from published_dictionaries import D_MODEL, D_SAE, crosscoder_state
from safetensors.torch import save_file

from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.importing import expected_width, fetch_dictionary, import_dictionary
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

NORMS = {1: lambda one, two: one + two, 2: lambda one, two: (one**2 + two**2).sqrt(), 4: lambda one, two: 1.0}


def residuals(n: int = 300) -> torch.Tensor:
    """Return the residuals `(n, 2, d_model)` of two models, with a mean."""
    return 2 * torch.randn(n, 2, D_MODEL, generator=torch.Generator().manual_seed(5)) + 0.7


def published(state, x, norm, scale):
    """Encode and reconstruct as published: scaled inputs, and a threshold on what is scaled by a norm."""
    mean = state["activation_mean"].nan_to_num()
    y = (x - mean) * scale
    pre = torch.einsum("nmd,mdf->nf", y, state["encoder.weight"]) + state["encoder.bias"]
    decoder = state["decoder.weight"]
    weight = NORMS[norm](decoder[0].norm(dim=1), decoder[1].norm(dim=1))
    f = pre.relu() * (pre.relu() * weight > state["threshold"])
    y_hat = torch.einsum("nf,mfd->nmd", f, decoder) + state["decoder.bias"]
    return f, y_hat / scale + mean


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("norm", [1, 2, 4])
def test_by_its_formula(tmp_path, norm, suffix):
    state, x = crosscoder_state(norm=norm), residuals()
    path = tmp_path / f"ae{suffix}"
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    f, x_hat = published(state, x, norm, state["activation_global_scale"])
    dictionary = load_dictionary(PublishedSource("crosscoder", path))
    assert (dictionary.d_model, dictionary.d_sae, dictionary.kind) == (2 * D_MODEL, D_SAE, "jumprelu")
    assert 0.02 < float((f > 0).float().mean()) < 0.9
    z = dictionary.encode(x.flatten(1))
    assert torch.equal(z > 0, f > 0)
    torch.testing.assert_close(dictionary(x.flatten(1)), x_hat.flatten(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(D_SAE))


@pytest.mark.parametrize("form", ["old", "compiled", "by dimension", "untold scale", "by model", "relu"])
def test_other_files_of_the_layout(tmp_path, form):
    x, norm = residuals(), 1
    spread = form in ("by dimension", "untold scale", "by model")
    state = crosscoder_state(norm=None if form == "old" else 1, spread=spread)
    scale = torch.tensor(1.0)
    if form in ("by dimension", "untold scale"):
        state["activation_global_scale"], scale = torch.tensor(1.0), 1 / state["activation_std"]
    if form == "untold scale":
        del state["activation_global_scale"], state["target_rms"]
    if form == "by model":
        # As the library has it since July 2025: the activations of each model have a scale of their own.
        state["activation_std"][1] *= 5
        told = state["target_rms"] / state["activation_std"].square().sum(dim=1).sqrt()
        state["activation_global_scale"], scale = told, told[:, None]
    if form == "relu":
        state["threshold"] = torch.tensor(0.0)
    f, x_hat = published(state, x, norm, scale)
    written = {f"_orig_mod.{name}": value for name, value in state.items()} if form == "compiled" else state
    if form == "relu":
        del written["threshold"], written["k"]
    torch.save(written, tmp_path / "ae.pt")
    dictionary = load_dictionary(PublishedSource("crosscoder", tmp_path / "ae.pt"))
    assert torch.equal(dictionary.encode(x.flatten(1)) > 0, f > 0)
    torch.testing.assert_close(dictionary(x.flatten(1)), x_hat.flatten(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": torch.tensor(-1.0)}, "threshold is .-1.0., expected one number of at least 0"),
        ({"threshold": torch.ones(2)}, "threshold is .1.0, 1.0., expected one number"),
        ({"code_normalization_id": torch.tensor(5)}, "code_normalization_id is 5, expected one of .1, 2, 4."),
        ({"encoder.weight": torch.ones(3, D_MODEL, D_SAE)}, "encoder.weight has shape .3, 16, 96., expected"),
        ({"decoder.bias": torch.ones(D_MODEL)}, "decoder.bias has shape .16,., expected .2, 16."),
        ({"activation_std": torch.zeros(2, D_MODEL)}, "activation_mean and activation_std are not finite"),
        ({"encoder.bias": torch.full((D_SAE,), torch.nan)}, "b_enc holds NaN"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, change, words):
    torch.save(crosscoder_state() | change, tmp_path / "ae.pt")
    with pytest.raises(DictionaryError, match=words):
        load_dictionary(PublishedSource("crosscoder", tmp_path / "ae.pt"))


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("threshold", r"threshold is \[nan\], expected one number"),
        ("activation_std", "holds one of activation_mean and activation_std, expected both or none"),
    ],
)
def test_a_part_that_others_need_is_missed(tmp_path, lost, words):
    """With `k` and no threshold it would fire wherever a ReLU does."""
    state = crosscoder_state()
    del state[lost]
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(DictionaryError, match=words):
        load_dictionary(PublishedSource("crosscoder", tmp_path / "ae.pt"))


def test_missing_tensors_and_other_content_are_told(tmp_path):
    state = crosscoder_state()
    del state["decoder.weight"]
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(DictionaryError, match=r"missing \['decoder.weight'\]"):
        load_dictionary(PublishedSource("crosscoder", tmp_path / "ae.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DictionaryError, match="expected tensors by name"):
        load_dictionary(PublishedSource("crosscoder", tmp_path / "list.pt"))
    torch.save(crosscoder_state(), tmp_path / "scaled.pt")
    with pytest.raises(DictionaryError, match="tells its scale itself; remove `input_scale`"):
        load_dictionary(PublishedSource("crosscoder", tmp_path / "scaled.pt", input_scale=0.5))


def test_it_is_imported_from_a_folder_that_is_called_so(tmp_path):
    folder = tmp_path / "gemma-crosscoder-l3"
    folder.mkdir()
    torch.save(crosscoder_state(), folder / "ae.pt")
    model = tmp_path / "config.json"
    model.write_text(json.dumps({"model_type": "llava", "text_config": {"hidden_size": D_MODEL}}))
    fetch_dictionary(str(tmp_path), "crosscoder", {3: "gemma-crosscoder-l3/ae.pt"}, tmp_path / "sources.json")
    options = {"k": None, "subtract_decoder_bias": None, "input_scale": None}
    shape = (expected_width(model, "crosscoder"), D_SAE)
    facts = {"dictionary": "crosscoder", "initial": "random", "base_model": "base_lm"}
    import_dictionary(tmp_path / "sources.json", 3, "crosscoder", options, shape, facts, tmp_path / "out")
    assert load_dictionary(tmp_path / "out").d_model == 2 * D_MODEL
    metadata = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert metadata["base_model"] == "base_lm" and metadata["format"] == "crosscoder"
    assert expected_width(model, "gemma_scope") == D_MODEL

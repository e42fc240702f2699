"""Published dictionaries: conventions against naive formulas, clear errors, import into an experiment."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published_dictionaries import (
    D_MODEL,
    D_SAE,
    LLAMA_SCOPE,
    K,
    random_weights,
    tokens,
    write_gemma_scope,
    write_hub_cache,
    write_llama_scope,
    write_mmdiff,
    write_saelens,
)
from safetensors.numpy import load_file

from vlmdiff.dictionaries.files import PublishedSource, load_dictionary, load_weights, save_dictionary
from vlmdiff.dictionaries.importing import fetch_dictionary, import_dictionary, model_width
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.source import files_read
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.hub.fetch import HubError

SCALE = D_MODEL**0.5 / 10.8125
SAELENS = {"architecture": "jumprelu", "dtype": "float32", "metadata": {"sae_lens_version": "6.54.0"}}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def raw(weights, x, scale=1.0, subtract=False):
    """Pre-activations of a published dictionary in its own units, by its formula."""
    y = x * scale - (weights["b_dec"] if subtract else 0)
    return y @ weights["W_enc"] + weights["b_enc"]


def topk(scores, values):
    kept = torch.zeros_like(scores).scatter(1, scores.topk(K, dim=1).indices, 1.0)
    return (values * kept).relu()


@pytest.mark.parametrize("act_fn", ["jumprelu", "topk", "relu"])
@pytest.mark.parametrize("subtract", [False, True])
def test_llama_scope_by_its_formula(tmp_path, act_fn, subtract):
    """Sparsity looks at pre-activation times decoder norm, in units of the residual stream for JumpReLU."""
    weights, x = random_weights(1), tokens(scale=3.0)
    folder = write_llama_scope(
        tmp_path / "L3", weights, torch.float32, act_fn=act_fn, apply_decoder_bias_to_pre_encoder=subtract
    )
    pre, norms = raw(weights, x, SCALE, subtract), weights["W_dec"].norm(dim=1)
    z = {
        "jumprelu": pre * (pre * norms / SCALE > LLAMA_SCOPE["jump_relu_threshold"]),
        "topk": topk(pre * norms, pre),
        "relu": pre.relu(),
    }[act_fn]
    dictionary = load_dictionary(PublishedSource("llama_scope", folder))
    with torch.no_grad():
        close(dictionary.encode(x), z * norms / SCALE)
        close(dictionary(x), (z @ weights["W_dec"] + weights["b_dec"]) / SCALE)


def test_llama_scope_that_was_folded_already(tmp_path):
    weights, x = random_weights(1, unit_rows=True), tokens()
    folder = write_llama_scope(tmp_path / "L3", weights, torch.float32, norm_activation="inference")
    pre = raw(weights, x)
    with torch.no_grad():
        close(load_dictionary(PublishedSource("llama_scope", folder)).encode(x), pre * (pre > 0.33))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_activation": "token-wise"}, "norm_activation is 'token-wise'.*token to token"),
        ({"hook_point_out": "blocks.3.hook_mlp_out"}, "a transcoder"),
        ({"dataset_average_activation_norm": {"in": 3.0, "out": 4.0}}, "expected one positive `in`"),
        ({"use_glu_encoder": True}, "gated encoder"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'; known are"),
        ({"d_sae": D_SAE * 2}, "expansion_factor is 6, but d_sae / d_model = 192 / 16"),
        ({"d_sae": D_SAE * 2, "expansion_factor": 12}, r"d_sae is 192, but the tensors are .*\(16, 96\)"),
        ({"d_model": 8, "expansion_factor": None}, r"d_model is 8, but the tensors are .*\(16, 96\)"),
        ({"use_decoder_bias": False}, "holds a decoder.bias, but use_decoder_bias is false"),
        ({"norm_activation": "inference", "top_k": K, "act_fn": "topk", "d_model": "16"}, "d_model is '16'"),
    ],
)
def test_llama_scope_of_another_kind_is_refused(tmp_path, changes, words):
    folder = write_llama_scope(tmp_path / "L3", random_weights(), **changes)
    with pytest.raises(DictionaryError, match=words):
        load_dictionary(PublishedSource("llama_scope", folder))


@pytest.mark.parametrize("name", ["hyperparams.json", "checkpoints/final.safetensors"])
def test_llama_scope_without_a_file_or_with_half_of_it(tmp_path, name):
    folder = write_llama_scope(tmp_path / "L3", random_weights())
    (folder / name).write_bytes((folder / name).read_bytes()[:60])
    with pytest.raises(DictionaryError, match=f"{name}: (not valid JSON|cannot be read)"):
        load_dictionary(PublishedSource("llama_scope", folder))
    (folder / name).unlink()
    with pytest.raises(DictionaryError, match=f"{name}: not found.*download"):
        load_dictionary(PublishedSource("llama_scope", folder))


def test_gemma_scope_by_its_formula(tmp_path):
    weights, x = random_weights(2), tokens()
    folder = write_gemma_scope(tmp_path / "layer_0/width_16k/average_l0_13", weights)
    pre = raw(weights, x)
    z = pre * (pre > weights["threshold"])
    dictionary = load_dictionary(PublishedSource("gemma_scope", folder))
    with torch.no_grad():
        close(dictionary.encode(x), z * weights["W_dec"].norm(dim=1))
        close(dictionary(x), z @ weights["W_dec"] + weights["b_dec"])


def test_gemma_scope_never_unpickles(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DictionaryError, match="params.npz: cannot be read .*allow_pickle"):
        load_dictionary(PublishedSource("gemma_scope", tmp_path))


def test_gemma_scope_lacking_an_array(tmp_path):
    weights = random_weights()
    del weights["threshold"]
    with pytest.raises(DictionaryError, match=r"missing \['threshold'\], found .*W_enc"):
        load_dictionary(PublishedSource("gemma_scope", write_gemma_scope(tmp_path / "layer_0", weights)))


def as_published(weights):
    return weights


def as_checkpoint(weights):
    return {"state_dict": weights, "step": 3, "config": {"k": K}}


def as_linear_layers(weights):
    return {name: tensor.T if name.startswith("W_") else tensor for name, tensor in weights.items()}


def as_logarithm(weights):
    rest = {name: tensor for name, tensor in weights.items() if name != "threshold"}
    return {**rest, "log_threshold": weights["threshold"].log()}


def as_parameters(weights):
    return {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}


@pytest.mark.parametrize("form", [as_published, as_checkpoint, as_linear_layers, as_logarithm, as_parameters])
def test_mmdiff_jumprelu(tmp_path, form):
    weights, x = random_weights(3), tokens()
    path = write_mmdiff(tmp_path / "text-only_layer_0.pt", form(weights))
    pre = raw(weights, x)
    z = pre * (pre > weights["threshold"])
    dictionary = load_dictionary(PublishedSource("mmdiff", path))
    with torch.no_grad():
        close(dictionary.encode(x), z * weights["W_dec"].norm(dim=1))
        close(dictionary(x), z @ weights["W_dec"] + weights["b_dec"])


def topk_weights(seed=4, **options):
    weights = random_weights(seed, **options)
    del weights["threshold"]
    return weights


def test_mmdiff_topk_in_sixteen_bits(tmp_path):
    weights, x = topk_weights(), tokens()
    weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
    path = write_mmdiff(tmp_path / "text-only_layer_0.pt", weights)
    dictionary = load_dictionary(PublishedSource("mmdiff", path, k=K, subtract_decoder_bias=True))
    wide = {name: tensor.float() for name, tensor in weights.items()}
    pre = raw(wide, x, subtract=True)
    with torch.no_grad():
        close(dictionary(x), topk(pre, pre) @ wide["W_dec"] + wide["b_dec"])


@pytest.mark.parametrize(
    ("content", "k", "words"),
    [
        (topk_weights(), None, "no thresholds.*give `k`"),
        (random_weights(), K, "holds thresholds.*remove `k`"),
        ({"a": topk_weights(), "b": topk_weights()}, K, "found 2 in"),
        ({"decoder": torch.zeros(3)}, K, "found 0 in .*decoder"),
        ({**topk_weights(), "W_enc": torch.zeros(D_MODEL, D_SAE + 1)}, K, "W_enc has shape .*97.*expected"),
        ({**topk_weights(), "b_dec": torch.zeros(1, D_MODEL)}, K, "b_dec has shape .*expected a vector"),
        ({**topk_weights(), "b_enc": torch.full((D_SAE,), torch.nan)}, K, "b_enc holds NaN"),
        ({**topk_weights(), "path": Path("/")}, K, "Python objects.*could run code"),
    ],
    ids=["no k", "k", "two", "none", "shape", "matrix bias", "nan", "object"],
)
def test_mmdiff_that_cannot_be_used(tmp_path, content, k, words):
    path = write_mmdiff(tmp_path / "text-only_layer_0.pt", content)
    with pytest.raises(DictionaryError, match=f"layer_0.pt: .*{words}"):
        load_dictionary(PublishedSource("mmdiff", path, k=k))


def test_damaged_mmdiff(tmp_path):
    path = write_mmdiff(tmp_path / "text-only_layer_0.pt", topk_weights())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DictionaryError, match="cannot be read|damaged"):
        load_dictionary(PublishedSource("mmdiff", path, k=K))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"normalize_activations": "layer_norm"}, "does not fold into weights: every token is centred"),
        ({"normalize_activations": "constant_norm_rescale"}, "does not fold .*every token is divided"),
        ({"normalize_activations": "covariance_whitening"}, "does not fold.*whitening matrix"),
        ({"normalize_activations": "expected_average_only_in"}, "no activation_scaler.json.*input_scale"),
        ({"architecture": "gated"}, "architecture 'gated'.*no equal"),
        ({"architecture": "standard", "activation_fn_str": "tanh-relu"}, "activation 'tanh-relu'"),
        ({"architecture": "topk"}, "lacks `k`"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
        ({"metadata": {}, "hook_point": "blocks.1.attn.hook_z"}, "hook_z"),
    ],
)
def test_saelens_folder_that_has_no_equal_here(tmp_path, config, words):
    whole, weights = {**SAELENS, **config}, random_weights()
    if whole["architecture"] == "topk":
        del weights["threshold"]
    folder = write_saelens(tmp_path / "sae", weights, whole)
    with pytest.raises(DictionaryError, match=words):
        load_dictionary(folder)


def test_scaling_factors_of_old_fine_tuning_are_refused(tmp_path):
    weights = {**random_weights(), "scaling_factor": torch.full((D_SAE,), 1.5)}
    with pytest.raises(DictionaryError, match="scaling_factor holds other values than 1"):
        load_dictionary(write_saelens(tmp_path / "sae", weights, SAELENS))


def test_a_release_without_sae_lens_installed(tmp_path):
    code = """
import sys
sys.modules["sae_lens"] = None  # as if it were not there
from vlmdiff.dictionaries.files import load_dictionary
try:
    load_dictionary("saelens:gemma-scope-2b-pt-res/layer_0")
except ValueError as error:
    sys.exit(str(error))
"""
    scripts = next(path for path in sys.path if path.endswith("workflow_scripts"))
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": scripts}, capture_output=True)
    assert done.returncode == 1 and b"pip install sae-lens" in done.stderr


def test_unknown_format_and_options_of_another_format(tmp_path):
    with pytest.raises(DictionaryError, match="unknown format 'onnx'; known are .*llama_scope"):
        load_dictionary(PublishedSource("onnx", tmp_path))
    with pytest.raises(DictionaryError, match="for mmdiff and qwen_scope.*gemma_scope"):
        load_dictionary(PublishedSource("gemma_scope", tmp_path, k=3))


def test_a_row_of_zeros_stays(tmp_path):
    weights = random_weights(5)
    weights["W_dec"][7] = 0
    dictionary = load_dictionary(PublishedSource("gemma_scope", write_gemma_scope(tmp_path / "l", weights)))
    norms = dictionary.W_dec.norm(dim=1)
    assert norms[7] == 0 and torch.allclose(norms[norms > 0], torch.ones(D_SAE - 1))
    assert torch.isfinite(dictionary(tokens())).all()


class Experiment:
    """A folder of results into which dictionaries are imported."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = folder / "model.json"
        self.model.write_text(json.dumps({"model_type": "llava", "text_config": {"hidden_size": D_MODEL}}))

    def fetch(self, source, format, files) -> dict:
        fetch_dictionary(str(source), format, files, self.folder / "sources.json")
        return json.loads((self.folder / "sources.json").read_text())

    def load(self, format, layer=3, d_sae=D_SAE, **options) -> Path:
        values = {"k": None, "subtract_decoder_bias": None, "input_scale": None, **options}
        out = self.folder / f"layer_{layer}"
        shape = (model_width(self.model), d_sae)
        facts = {"dictionary": "base", "initial": "random"}
        import_dictionary(self.folder / "sources.json", layer, format, values, shape, facts, out)
        return out


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    (tmp_path / "results").mkdir()
    return Experiment(tmp_path / "results")


def test_import_from_a_local_folder(tmp_path, experiment):
    folder = write_llama_scope(tmp_path / "scope" / "L3R-8x", random_weights(6))
    noted = experiment.fetch(tmp_path / "scope", "llama_scope", {3: "L3R-8x"})
    assert noted["commit"] is None and noted["paths"] == {"3": str(folder)}
    out = experiment.load("llama_scope")
    metadata = json.loads((out / "cfg.json").read_text())["metadata"]
    assert metadata["dictionary"] == "base" and metadata["layer"] == 3 and metadata["format"] == "llama_scope"
    assert metadata["file"] == "L3R-8x" and set(metadata["sha256"]) == {
        "hyperparams.json",
        "final.safetensors",
    }
    # The power of two nearest to 1 / 10.8125, the average norm.
    assert metadata["input_scale"] == 0.125 and metadata["published_input_scale"] == pytest.approx(SCALE)
    x = tokens()
    published = load_dictionary(PublishedSource("llama_scope", folder))
    torch.testing.assert_close(load_dictionary(out)(x), published(x))
    assert {array.dtype for array in load_file(out / "sae_weights.safetensors").values()} == {
        np.dtype("float32")
    }


def test_import_from_the_hub_notes_the_commit(tmp_path, experiment, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    commit, repository = "0123456789" * 4, "OX-PIXL/MMDiff_SAEs"
    names = {layer: f"paligemma2/jumprelu_text_only/text-only_layer_{layer}.pt" for layer in (3, 4)}
    made = {name: write_mmdiff(tmp_path / name, random_weights(layer)) for layer, name in names.items()}
    write_hub_cache(tmp_path / "cache", repository, made, commit)
    noted = experiment.fetch(f"hub:{repository}@main", "mmdiff", names)
    assert noted["commit"] == commit
    out = experiment.load("mmdiff", layer=4)
    metadata = json.loads((out / "cfg.json").read_text())["metadata"]
    assert metadata["source"] == f"hub:{repository}@main" and metadata["commit"] == commit
    assert (load_weights(out)["b_dec"] == random_weights(4)["b_dec"].numpy()).all()


def scaled_saelens(folder, weights):
    config = {**SAELENS, "normalize_activations": "expected_average_only_in"}
    write_saelens(folder, weights, config)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.5}))
    return folder


@pytest.mark.parametrize(
    ("format", "write", "file"),
    [
        ("llama_scope", write_llama_scope, "L3R-8x"),
        ("gemma_scope", write_gemma_scope, "layer_3/width_16k"),
        ("mmdiff", write_mmdiff, "layer_3.pt"),
        ("saelens", scaled_saelens, "sae"),
    ],
)
def test_the_files_that_are_inputs_are_those_that_are_read(tmp_path, format, write, file):
    """The rule's inputs alone make the same dictionary, and without any of them there is none."""
    path = write(tmp_path / "source" / file, random_weights())
    whole = load_dictionary(PublishedSource(format, path)).state_dict()
    read = files_read(format, str(path))
    assert len(read) == {"llama_scope": 2, "saelens": 3}.get(format, 1)
    copies = {one: tmp_path / "copy" / one.relative_to(tmp_path / "source") for one in read}
    for one, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one, copy)
    source = PublishedSource(format, tmp_path / "copy" / file)
    assert all(
        torch.equal(value, whole[name]) for name, value in load_dictionary(source).state_dict().items()
    )
    for one, copy in copies.items():
        copy.unlink()
        with pytest.raises(DictionaryError, match=one.name):
            load_dictionary(source)
        shutil.copy(one, copy)


@pytest.mark.parametrize(
    ("name", "warned"), [("google/gemma-2-2b", False), ("gpt2-small", True), (None, False)]
)
def test_a_dictionary_of_another_model_is_told(tmp_path, experiment, caplog, name, warned):
    write_saelens(tmp_path / "sae", random_weights(), {**SAELENS, "metadata": {"model_name": name}})
    experiment.fetch(tmp_path, "saelens", {3: "sae"})
    models = ["hub:google/gemma-2-2b@main", "hub:google/paligemma2-3b-mix-448@main"]
    arguments = (experiment.folder / "sources.json", 3, "saelens", {}, (D_MODEL, D_SAE), {}, tmp_path / "out")
    import_dictionary(*arguments, models=models)
    assert ("was trained on gpt2-small; the models of this experiment are" in caplog.text) is warned
    assert json.loads((tmp_path / "out/cfg.json").read_text())["metadata"]["published_model"] == name


@pytest.mark.parametrize("damaged", [False, True])
def test_a_file_of_the_hub_is_held_against_the_sum_by_which_its_cache_names_it(tmp_path, experiment, damaged):
    file = write_gemma_scope(tmp_path / "source", random_weights(3)) / "params.npz"
    folder, blobs = tmp_path / "snapshots" / ("a" * 40) / "layer_3", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    kept = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
    # Still a file that can be read: other weights.
    other = write_gemma_scope(tmp_path / "other", random_weights(4)) / "params.npz"
    kept.write_bytes((other if damaged else file).read_bytes())
    (folder / "params.npz").symlink_to(kept)
    experiment.fetch(folder.parent, "gemma_scope", {3: "layer_3"})
    if damaged:
        with pytest.raises(DictionaryError, match=f"SHA-256 is .*, expected {kept.name}: it was damaged"):
            experiment.load("gemma_scope")
        return
    metadata = json.loads((experiment.load("gemma_scope") / "cfg.json").read_text())["metadata"]
    assert metadata["sha256"] == {"params.npz": kept.name}


def test_hub_that_does_not_have_it(tmp_path, experiment, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HubError, match="google/gemma-scope-2b-pt-res@main.*HF_HUB_OFFLINE"):
        experiment.fetch("hub:google/gemma-scope-2b-pt-res@main", "gemma_scope", {0: "layer_0"})
    file = write_gemma_scope(tmp_path / "layer_0", random_weights()) / "params.npz"
    write_hub_cache(tmp_path / "cache", "google/gemma-scope-2b-pt-res", {"layer_0/params.npz": file})
    with pytest.raises(DictionaryError, match="1 files are not there, first .*layer_1/params.npz"):
        experiment.fetch("hub:google/gemma-scope-2b-pt-res@main", "gemma_scope", {0: "layer_0", 1: "layer_1"})
    assert not (experiment.folder / "sources.json").exists()


def test_dictionary_of_another_size_or_place_is_refused(tmp_path, experiment):
    write_llama_scope(tmp_path / "L3", random_weights())
    experiment.fetch(tmp_path, "llama_scope", {3: "L3", 2: "L3"})
    with pytest.raises(DictionaryError, match=r"\(16, 96\), expected \(16, 128\).*architecture.d_sae"):
        experiment.load("llama_scope", d_sae=128)
    with pytest.raises(DictionaryError, match="trained at blocks.3.hook_resid_post, expected blocks.2"):
        experiment.load("llama_scope", layer=2)
    experiment.model.write_text(json.dumps({"hidden_size": 64}))
    with pytest.raises(DictionaryError, match=r"\(16, 96\), expected \(64, 96\)"):
        experiment.load("llama_scope")


def test_import_of_a_topk_that_chose_regardless_of_norms(tmp_path, experiment):
    weights, x = topk_weights(8), tokens()
    write_mmdiff(tmp_path / "layer_3.pt", weights)
    experiment.fetch(tmp_path, "mmdiff", {3: "layer_3.pt"})
    out = experiment.load("mmdiff", k=K)
    pre, norms = raw(weights, x), weights["W_dec"].norm(dim=1)
    with torch.no_grad():
        close(load_dictionary(out).encode(x), topk(pre, pre) * norms)
    assert np.allclose(np.linalg.norm(load_weights(out)["W_dec"], axis=1), 1, atol=1e-6)


def test_import_of_an_own_dictionary_keeps_its_input_scale(tmp_path, experiment):
    own = TopKDictionary(D_MODEL, D_SAE, K)
    own.load_state_dict(topk_weights(9, unit_rows=True))
    save_dictionary(own, tmp_path / "base" / "layer_3", {"input_scale": 0.25, "tokens": ["text"]})
    experiment.fetch(tmp_path / "base", "vlmdiff", {3: "layer_3"})
    out = experiment.load("vlmdiff")
    assert json.loads((out / "cfg.json").read_text())["metadata"]["input_scale"] == 0.25
    torch.testing.assert_close(load_dictionary(out)(tokens()), own(tokens()))


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"hidden_size": 8}, 8),
        ({"text_config": {"hidden_size": 9}, "hidden_size": 8}, 9),
        ({"language_config": {"hidden_size": 7}, "hidden_size": 8}, 7),
        ({"llm_config": {"vocab_size": 9}, "hidden_size": 8}, 8),
        ({"a": 1}, None),
    ],
)
def test_model_width(tmp_path, config, width):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_width(tmp_path / "config.json") == width

"""Dictionaries of sparsify, OpenMOSS and dictionary_learning, against their authors' formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_dictionaries import (
    D_MODEL,
    D_SAE,
    LEARNT_THRESHOLD,
    OPENMOSS_NORM,
    K,
    crosscoder_state,
    learnt_state,
    random_weights,
    tokens,
    write_dictionary_learning,
    write_gemma_scope,
    write_gemma_scope_2,
    write_openmoss,
    write_qwen_scope,
    write_sparsify,
)
from torch import Tensor

from vlmdiff.dictionaries.files import PublishedSource, load_dictionary
from vlmdiff.dictionaries.importing import place_of_layer
from vlmdiff.dictionaries.published.convert import read_published
from vlmdiff.dictionaries.published.place import check_place, place_of_file
from vlmdiff.dictionaries.weights import DictionaryError


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def largest(scores: Tensor, values: Tensor) -> Tensor:
    """Keep the values whose scores are among the K largest of their token."""
    return values * torch.zeros_like(values).scatter(1, scores.topk(K, dim=1).indices, 1.0)


@torch.no_grad()
def alike(
    source: PublishedSource, z: Tensor, rows: Tensor, x_hat: Tensor, x: Tensor, unit: float = 1.0
) -> None:
    """Compare with activations in the published units, of features with these decoder rows."""
    dictionary = load_dictionary(source)
    assert 0.01 < float((z > 0).float().mean()) < 0.95
    assert torch.equal(dictionary.encode(x) > 0, z > 0)
    close(dictionary.encode(x), z * rows.norm(dim=1) / unit)
    close(dictionary(x), x_hat)
    close(dictionary.W_dec.norm(dim=1), torch.ones(D_SAE))


@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": None, "skip_connection": None, "transcode": None},
        {"num_latents": 0, "expansion_factor": D_SAE // D_MODEL, "signed": False, "multi_topk": True},
    ],
    ids=["sparsify", "multimodal-sae", "expansion"],
)
def test_sparsify_by_its_formula(tmp_path, changes, unit_rows):
    """`relu((x - b_dec) W.T + b)`, the k largest, times the decoder's rows, plus `b_dec`."""
    weights, x = random_weights(11, unit_rows), tokens()
    folder = write_sparsify(tmp_path / "layers.3", weights, **changes)
    pre = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    z = largest(pre, pre)
    x_hat = z @ weights["W_dec"] + weights["b_dec"]
    alike(PublishedSource("sparsify", folder), z, weights["W_dec"], x_hat, x)


def test_openmoss_scales_its_input_where_nothing_says_that_it_does_not(tmp_path):
    folder = write_openmoss(tmp_path / "L3R", random_weights(12))
    told = json.loads((folder / "config.json").read_text())
    del told["norm_activation"]
    (folder / "config.json").write_text(json.dumps(told))
    found = read_published(PublishedSource("openmoss", folder))
    assert found.input_scale == pytest.approx(D_MODEL**0.5 / OPENMOSS_NORM) and found.tells_norm


def write_others(folder: Path, format: str, more: dict[str, Tensor]) -> Path:
    """Write a dictionary of a format whose files may hold more than is known here, and hold `more`."""
    weights = random_weights()
    if format == "gemma_scope":
        return write_gemma_scope(folder, weights | more)
    if format == "gemma_scope_2":
        return write_gemma_scope_2(folder, weights | more)
    file = folder / "layer_3.pt"
    folder.mkdir()
    if format == "crosscoder":
        torch.save(crosscoder_state() | more, file)
        return file
    write_qwen_scope(file, weights)
    state = torch.load(file)
    if format == "mmdiff":
        state |= {name: state[name].T for name in ("W_enc", "W_dec")}
    torch.save(state | more, file)
    return file


OTHERS = ("crosscoder", "gemma_scope", "gemma_scope_2", "mmdiff", "qwen_scope")


@pytest.mark.parametrize("format", OTHERS)
@pytest.mark.parametrize("name", ["r_mag", "b_gate", "W_skip", "jumprelu_threshold"])
def test_tensors_of_another_kind_are_refused(tmp_path, format, name):
    """Without them the rest would read as a dictionary of the format, and encode something else."""
    k = K if format in ("mmdiff", "qwen_scope") else None
    plain = write_others(tmp_path / "plain", format, {"act_freq": torch.ones(D_SAE)})
    read_published(PublishedSource(format, plain, k))
    other = write_others(tmp_path / "other", format, {name: torch.ones(D_SAE)})
    with pytest.raises(DictionaryError, match=rf"holds \['{name}'\], which a dictionary of this format does"):
        read_published(PublishedSource(format, other, k))


@pytest.mark.parametrize("format", ["mmdiff", "qwen_scope"])
@pytest.mark.parametrize("told", [K + 1, torch.tensor(K + 1)])
def test_k_that_a_file_tells_otherwise_is_refused(tmp_path, format, told):
    file = write_others(tmp_path / "other", format, {"k": told})
    with pytest.raises(DictionaryError, match=rf"the file tells k = \[{K + 1}\], `k` in the config is {K}"):
        read_published(PublishedSource(format, file, K))


def test_qwen_scope_with_thresholds_is_no_topk(tmp_path):
    file = write_others(tmp_path / "other", "qwen_scope", {"threshold": torch.ones(D_SAE)})
    with pytest.raises(DictionaryError, match=r"holds \['threshold'\], which a dictionary of this format"):
        read_published(PublishedSource("qwen_scope", file, K))


@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("act_fn", ["jumprelu", "topk", "relu"])
@pytest.mark.parametrize("mode", ["dataset-wise", "inference"])
def test_openmoss_by_its_formula(tmp_path, act_fn, by_norm, mode):
    """The input is scaled to an average norm of sqrt(d); what is compared may be times the rows' norms."""
    weights, x = random_weights(12), tokens(scale=3.0)
    changes = {"act_fn": act_fn, "sparsity_include_decoder_norm": by_norm, "norm_activation": mode}
    folder = write_openmoss(tmp_path / "L3R", weights, **changes)
    scale = D_MODEL**0.5 / OPENMOSS_NORM if mode == "dataset-wise" else 1.0
    pre = scale * x @ weights["W_enc"] + weights["b_enc"]
    norms = weights["W_dec"].norm(dim=1) if by_norm else torch.ones(D_SAE)
    z = {
        "jumprelu": pre * (pre * norms > weights["threshold"]),
        "topk": largest((pre * norms).relu(), pre.relu()),
        "relu": pre.relu(),
    }[act_fn]
    x_hat = (z @ weights["W_dec"] + weights["b_dec"]) / scale
    alike(PublishedSource("openmoss", folder), z, weights["W_dec"], x_hat, x, scale)
    assert read_published(PublishedSource("openmoss", folder)).tells_norm is (mode == "dataset-wise")


def test_openmoss_without_a_bias_and_with_one_on_the_input(tmp_path):
    weights, x = random_weights(13), tokens()
    plain = {"norm_activation": "inference", "act_fn": "relu"}
    folder = write_openmoss(tmp_path / "none", weights, **plain, use_decoder_bias=False)
    z = (x @ weights["W_enc"] + weights["b_enc"]).relu()
    alike(PublishedSource("openmoss", folder), z, weights["W_dec"], z @ weights["W_dec"], x)
    folder = write_openmoss(tmp_path / "both", weights, **plain, apply_decoder_bias_to_pre_encoder=True)
    z = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    x_hat = z @ weights["W_dec"] + weights["b_dec"]
    alike(PublishedSource("openmoss", folder), z, weights["W_dec"], x_hat, x)


# What each class does with residuals less the decoder's bias, or as they are.
ACTIVATIONS: dict[str, tuple[bool, Callable[[Tensor, Tensor], Tensor]]] = {
    "AutoEncoder": (True, lambda pre, _: pre.relu()),
    "AutoEncoderNew": (False, lambda pre, _: pre.relu()),
    "AutoEncoderTopK": (True, lambda pre, _: largest(pre.relu(), pre.relu())),
    "BatchTopKSAE": (True, lambda pre, _: pre * (pre > LEARNT_THRESHOLD)),
    "MatryoshkaBatchTopKSAE": (True, lambda pre, _: pre * (pre > LEARNT_THRESHOLD)),
    "JumpReluAutoEncoder": (False, lambda pre, threshold: (pre * (pre > threshold)).relu()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dictionary_learning_by_its_formula(tmp_path, name):
    weights, x = random_weights(14), tokens()
    weights["threshold"][2] = -0.3
    folder = write_dictionary_learning(tmp_path / "trainer_0", weights, name)
    subtracts, activate = ACTIVATIONS[name]
    pre = (x - weights["b_dec"] * subtracts) @ weights["W_enc"] + weights["b_enc"]
    z = activate(pre, weights["threshold"])
    x_hat = z @ weights["W_dec"] + weights["b_dec"]
    source = PublishedSource("dictionary_learning", folder)
    alike(source, z, weights["W_dec"], x_hat, x)
    found = read_published(source)
    check_place(found.place, folder, 3)
    assert found.model == "EleutherAI/pythia-160m-deduped"


@pytest.mark.parametrize("common", [True, False], ids=["common scale", "by dimension"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_normalisation_of_activations_is_folded(tmp_path, common, compiled):
    """Forks store mean and scale: `y = (x - mean) * scale` goes in, and the reconstruction comes back."""
    weights, x = random_weights(15), tokens(scale=4.0)
    spread, mean = torch.rand(D_MODEL) + 0.5, torch.randn(D_MODEL)
    told = 2.0 / spread.square().sum().sqrt() if common else torch.tensor(1.0)
    scale = told if common else 1 / spread
    state = learnt_state(weights, "BatchTopKSAE") | {
        "activation_mean": mean, "activation_std": spread, "target_rms": torch.tensor(2.0),
        "activation_global_scale": told, "threshold": torch.tensor(0.4),
    }  # fmt: skip
    state = {f"_orig_mod.{name}": one for name, one in state.items()} if compiled else state
    folder = write_dictionary_learning(tmp_path / "trainer_0", weights, "BatchTopKSAE", state)
    pre = ((x - mean) * scale - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    z = pre * (pre > 0.4)
    x_hat = (z @ weights["W_dec"] + weights["b_dec"]) / scale + mean
    dictionary = load_dictionary(PublishedSource("dictionary_learning", folder))
    with torch.no_grad():
        assert torch.equal(dictionary.encode(x) > 0, z > 0)
        torch.testing.assert_close(dictionary(x), x_hat, rtol=1e-4, atol=1e-4 * float(x_hat.abs().max()))


GATED = dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), torch.zeros(D_SAE))


def sparsify(root: Path, **changes) -> PublishedSource:
    return PublishedSource("sparsify", write_sparsify(root / "layers.3", random_weights(), **changes))


def openmoss(root: Path, more=None, **changes) -> PublishedSource:
    return PublishedSource("openmoss", write_openmoss(root / "L3R", random_weights(), more, **changes))


def learnt(root: Path, name="BatchTopKSAE", state=None, **changes) -> PublishedSource:
    weights = random_weights()
    state = {**learnt_state(weights, name if name in ACTIVATIONS else "AutoEncoder"), **(state or {})}
    folder = write_dictionary_learning(root / "trainer_0", weights, name, state, **changes)
    return PublishedSource("dictionary_learning", folder)


REFUSED = [
    (sparsify, {"transcode": True}, "cfg.json: transcode is true: a transcoder"),
    (sparsify, {"skip_connection": True}, "skip_connection is true: it has a linear connection"),
    (sparsify, {"signed": True}, "signed is true: it chooses features by magnitude"),
    (sparsify, {"activation": "groupmax"}, "activation is 'groupmax', expected 'topk'"),
    (sparsify, {"num_latents": 64}, "num_latents is 64, but the tensors are of .* = .16, 96."),
    (sparsify, {"num_latents": 0, "expansion_factor": 5}, "num_latents is 80, but the tensors"),
    (sparsify, {"d_in": 8}, "d_in is 8, but the tensors"),
    (sparsify, {"k": 0}, "k is 0, expected a whole number from 1 to 96"),
    (sparsify, {"k": None}, r"missing \['k'\]"),
    (openmoss, {"act_fn": "batchtopk"}, "act_fn is 'batchtopk', which chooses among all tokens of a batch"),
    (openmoss, {"act_fn": "gelu"}, "act_fn is 'gelu'; known are"),
    (openmoss, {"sae_type": "crosscoder"}, "sae_type is 'crosscoder', expected 'sae'"),
    (openmoss, {"hook_point_out": "blocks.3.hook_mlp_out"}, "a transcoder, not a dictionary"),
    (openmoss, {"use_glu_encoder": True}, "use_glu_encoder is true"),
    (openmoss, {"norm_activation": "token-wise"}, "norm_activation is 'token-wise'.*does not fold"),
    (openmoss, {"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise'.*does not fold"),
    (openmoss, {"expansion_factor": 4}, "d_sae is 64, but the tensors are of .* = .16, 96."),
    (openmoss, {"act_fn": "topk", "top_k": 97}, "top_k is 97, expected a whole number from 1 to 96"),
    (openmoss, {"more": {"W_E_glu": torch.ones(2)}}, r"holds \['W_E_glu'\], which a dictionary"),
    (
        openmoss,
        {"more": {"activation_function.log_jumprelu_threshold": torch.zeros(3)}},
        r"log_jumprelu_threshold is torch.float32 of shape \(3,\), or .* expected \(96,\) numbers",
    ),
    (
        openmoss,
        {"more": {"dataset_average_activation_norm.blocks.3.hook_resid_post": torch.tensor(-1.0)}},
        "dataset_average_activation_norm is .*expected one positive",
    ),
    (learnt, {"name": "GatedAutoEncoder", "state": GATED}, "'GatedAutoEncoder', which has no equal here"),
    (learnt, {"name": "BatchTopKCrossCoder"}, "a crosscoder; give `format: crosscoder`"),
    (learnt, {"name": "AutoEncoder", "state": GATED}, "holds .'gate_bias'.* correct dict_class"),
    (learnt, {"state": {"threshold": torch.tensor(-1.0)}}, "threshold is .-1.0., expected one number"),
    (learnt, {"dict_size": 64}, "dict_size is 64, but the tensors"),
    (learnt, {"name": "AutoEncoderTopK", "k": 4}, r"trainer.k and k in ae.pt tell \[4, 6\]"),
    (learnt, {"name": "JumpReluAutoEncoder", "state": {"W_enc": torch.ones(4, 9)}}, "W_enc has shape .4, 9."),
]  # fmt: skip


@pytest.mark.parametrize(("build", "changes", "words"), REFUSED, ids=[one[2][:40] for one in REFUSED])
def test_what_has_no_equal_here_is_told_in_one_sentence(tmp_path, build, changes, words):
    source = build(tmp_path, **changes)
    with pytest.raises(DictionaryError, match=words) as error:
        load_dictionary(source)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("build", [sparsify, openmoss, learnt])
def test_missing_and_damaged_files_are_named(tmp_path, build):
    source = build(tmp_path)
    for file in sorted(Path(source.path).iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(DictionaryError, match=f"{file.name}: .*(cannot be read|not valid JSON|damaged)"):
            load_dictionary(source)
        file.unlink()
        with pytest.raises(DictionaryError, match=f"{file.name}: not found"):
            load_dictionary(source)
        file.write_bytes(content)
    load_dictionary(source)


def test_a_pickle_of_more_than_tensors_is_not_loaded(tmp_path):
    source = learnt(tmp_path)
    torch.save({"state": Path("/")}, Path(source.path) / "ae.pt")
    with pytest.raises(DictionaryError, match="Python objects.*could run code"):
        load_dictionary(source)
    torch.save({"ae": learnt_state(random_weights(), "AutoEncoder"), "step": 3}, Path(source.path) / "ae.pt")
    with pytest.raises(DictionaryError, match=r"expected tensors by name.*found \['ae', 'step'\]"):
        load_dictionary(source)


@pytest.mark.parametrize(
    ("file", "fits"),
    [("layers.3", True), ("model.layers.3", True), ("layers.4", False), ("layers.3.mlp", False),
     ("embed_tokens", False)],
)  # fmt: skip
def test_the_folder_of_a_hook_point_tells_the_place(file, fits):
    place = place_of_file("hub:EleutherAI/sae-llama-3-8b-32x@main", file)
    if fits:
        check_place(place, file, 3)
        return
    with pytest.raises(DictionaryError):
        check_place(place, file, 3)


def test_a_trainer_of_another_layer_is_refused(tmp_path):
    found = read_published(learnt(tmp_path, layer=5))
    noted = {"source": str(tmp_path), "files": {"3": "trainer_0"}}
    with pytest.raises(DictionaryError, match="trainer.layer tells layer 5, expected 3"):
        check_place(found.place | place_of_layer(noted, "dictionary_learning", 3), "x", 3)

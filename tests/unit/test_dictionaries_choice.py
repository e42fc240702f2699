"""What others' dictionaries choose stays what is chosen: TopK among unequal rows, JumpReLU below zero.

The right values are formulas in float64, and sae-lens where it reads the same file.
"""

import json
import logging

import numpy as np
import pytest
import torch
from published_dictionaries import (
    D_SAE,
    K,
    random_weights,
    tokens,
    write_gemma_scope,
    write_mmdiff,
    write_saelens,
)
from safetensors.torch import load_file, save_file
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.evaluation import score_dictionaries
from vlmdiff.dictionaries.files import PublishedSource, load_dictionary, save_dictionary
from vlmdiff.dictionaries.initial import warm_start
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.features.statistics import collect_statistics

ARCHITECTURE = {
    "kind": "topk", "d_sae": D_SAE, "k": K, "bandwidth": 0.02, "l0_coefficient": 1.0,
    "subtract_decoder_bias": True,
}  # fmt: skip
STAGE = {
    "tokens": ["text"], "steps": 12, "batch_tokens": 64, "learning_rate": 1e-3, "warmup": 0.1,
    "snapshots": [],
}  # fmt: skip


def unequal(seed: int = 4) -> dict[str, torch.Tensor]:
    """Weights whose rows have norms between 0.3 and 3, one of them zero."""
    weights = random_weights(seed)
    weights["W_dec"][7] = 0
    del weights["threshold"]
    return weights


def published(weights, x, scale=1.0, subtract=False):
    """Return activations in units of unit rows and of x, and the reconstruction, by the published formula."""
    one = {name: value.double().numpy() for name, value in weights.items()}
    y = scale * x.double().numpy()
    pre = (y - (one["b_dec"] if subtract else 0)) @ one["W_enc"] + one["b_enc"]
    chosen = np.argsort(-pre, axis=1)[:, :K]
    z = np.zeros_like(pre)
    np.put_along_axis(z, chosen, np.maximum(np.take_along_axis(pre, chosen, 1), 0), 1)
    norms = np.linalg.norm(one["W_dec"], axis=1)
    return z * np.where(norms > 0, norms, 1) / scale, (z @ one["W_dec"] + one["b_dec"]) / scale


def close(found, expected):
    expected = torch.as_tensor(expected).float()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def dense(pairs, n):
    z = torch.zeros(n, D_SAE)
    return z.index_put((pairs.tokens(), pairs.columns), pairs.values.float())


@pytest.fixture
def mmdiff(tmp_path):
    return PublishedSource("mmdiff", write_mmdiff(tmp_path / "layer_3.pt", unequal()), k=K)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.7])
def test_every_path_makes_the_published_choice(tmp_path, subtract, scale):
    path, x = write_mmdiff(tmp_path / "layer_3.pt", unequal()), tokens()
    z, x_hat = published(unequal(), x, scale, subtract)
    imported = load_dictionary(PublishedSource("mmdiff", path, K, subtract, scale))
    torch.testing.assert_close(imported.W_dec.norm(dim=1)[:7], torch.ones(7))
    save_dictionary(imported, tmp_path / "saved", {"layer": 3})
    again = load_dictionary(PublishedSource("vlmdiff", tmp_path / "saved"))
    for dictionary in (imported, load_dictionary(tmp_path / "saved"), again):
        close(dictionary.encode(x), z)
        assert torch.equal(dictionary.encode(x) > 0, torch.from_numpy(z > 0))
        close(dense(dictionary.active_pairs(x), len(x)), z)
        close(dictionary(x), x_hat)
        close(dictionary.reconstruct(x).x_hat, x_hat)
        assert dictionary.reconstruct(x).firings.tolist() == (z > 0).sum(0).tolist()
        wide = dictionary.double()
        close(dense(wide.active_pairs(x.double()), len(x)), z)
    # Folding the norms into the encoder, which this was once, chooses otherwise.
    folded = load_dictionary(PublishedSource("mmdiff", path, K, subtract, scale))
    folded.fold_divisor()
    assert 0.5 < ((folded.encode(x) > 0).numpy() & (z > 0)).sum() / (z > 0).sum() < 0.95


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_rows_of_one_norm_need_no_divisor(tmp_path, factor):
    weights = random_weights(4, unit_rows=True)
    del weights["threshold"]
    weights["W_dec"] *= factor
    path = write_mmdiff(tmp_path / "layer_3.pt", weights)
    dictionary, x = load_dictionary(PublishedSource("mmdiff", path, k=K)), tokens()
    assert dictionary.divisor is None
    close(dictionary.encode(x), published(weights, x)[0])
    save_dictionary(dictionary, tmp_path / "saved", {})
    assert sorted(load_file(tmp_path / "saved" / "sae_weights.safetensors")) == [
        "W_dec",
        "W_enc",
        "b_dec",
        "b_enc",
    ]


def test_sixteen_bit_rows_keep_their_choice_too(tmp_path):
    weights = {name: value.bfloat16() for name, value in unequal().items()}
    path, x = write_mmdiff(tmp_path / "layer_3.pt", weights), tokens(2000)
    z, _ = published(weights, x)
    found = load_dictionary(PublishedSource("mmdiff", path, k=K)).encode(x)
    assert torch.equal(found > 0, torch.from_numpy(z > 0))


def test_a_row_of_zeros_among_those_chosen_by_norm_is_never_chosen(tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    config = {"architecture": "topk", "k": K, "dtype": "float32", "device": "cpu", "metadata": {}}
    config |= {
        "apply_b_dec_to_input": True,
        "rescale_acts_by_decoder_norm": True,
        "sae_lens_version": "6.54.0",
    }
    folder, x = write_saelens(tmp_path / "sae", unequal(), config), tokens()
    theirs, ours = sae_lens.SAE.load_from_disk(folder).encode(x), load_dictionary(folder).encode(x)
    close(ours, theirs.detach())
    assert ours.detach()[:, 7].abs().max() == 0


def test_saelens_chooses_alike_and_refuses_our_file(tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    config = {"architecture": "topk", "k": K, "dtype": "float32", "device": "cpu", "metadata": {}}
    config |= {"apply_b_dec_to_input": False, "sae_lens_version": "6.54.0"}
    folder, x = write_saelens(tmp_path / "sae", unequal(), config), tokens()
    sae, ours = sae_lens.SAE.load_from_disk(folder), load_dictionary(folder)
    norms = torch.where(sae.W_dec.norm(dim=1) > 0, sae.W_dec.norm(dim=1), 1.0)
    close(ours.encode(x), (sae.encode(x) * norms).detach())
    close(ours(x), sae(x).detach())
    save_dictionary(ours, tmp_path / "ours", {})
    with pytest.raises(RuntimeError, match="divisor"):
        sae_lens.SAE.load_from_disk(tmp_path / "ours")


@pytest.mark.parametrize("damage", [lambda one: one * 0, lambda one: -one, lambda one: one[:-1]])
def test_a_damaged_divisor_is_refused(tmp_path, mmdiff, damage):
    save_dictionary(load_dictionary(mmdiff), tmp_path / "saved", {})
    file = tmp_path / "saved" / "sae_weights.safetensors"
    weights = load_file(file)
    save_file({**weights, "divisor": damage(weights["divisor"]).contiguous()}, file)
    with pytest.raises(DictionaryError, match="divisor"):
        load_dictionary(tmp_path / "saved")


def float64_steps(dictionary, x, steps, rate):
    """Fine-tune by the formulas: loss, Adam, unit rows; the divisor is a constant."""
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    weights = {name: getattr(dictionary, name).detach().double().requires_grad_() for name in names}
    divisor, moments = dictionary.divisor.double(), {name: [0.0, 0.0] for name in names}
    for step in range(1, steps + 1):
        pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
        kept = torch.zeros_like(pre).scatter(1, pre.topk(K, dim=1).indices, 1.0)
        x_hat = (pre.relu() * kept * divisor) @ weights["W_dec"] + weights["b_dec"]
        loss = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
        gradients = dict(zip(names, torch.autograd.grad(loss, list(weights.values()))))
        rows = weights["W_dec"].detach()
        gradients["W_dec"] = gradients["W_dec"] - (gradients["W_dec"] * rows).sum(1, keepdim=True) * rows
        for name, gradient in gradients.items():
            first, second = moments[name]
            moments[name] = first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            change = rate * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            weights[name] = weights[name].detach() - change
        weights["W_dec"] = weights["W_dec"] / weights["W_dec"].norm(dim=1, keepdim=True)
        weights = {name: value.requires_grad_() for name, value in weights.items()}
    return {name: value.detach() for name, value in weights.items()}


@pytest.mark.parametrize("alone", [True, False], ids=["fused", "gradients"])
def test_fine_tuning_by_the_formulas(tmp_path, alone):
    weights = random_weights(6)
    del weights["threshold"]
    path = write_mmdiff(tmp_path / "layer_3.pt", weights)
    dictionary, x = load_dictionary(PublishedSource("mmdiff", path, K, True)), tokens(512)
    expected, divisor = float64_steps(dictionary, x.double(), 5, 1e-3), dictionary.divisor.clone()
    adam = DictionaryAdam(dictionary, 1e-3, alone=alone)
    for _ in range(5):
        adam.zero_grad()
        fraction_unexplained(x, dictionary.reconstruct(x).x_hat).backward()
        adam.step()
    assert dictionary.defers is alone and torch.equal(dictionary.divisor, divisor)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(dictionary, name).detach(), value.float(), rtol=1e-3, atol=2e-5)


def test_a_warm_start_keeps_the_choice_or_its_values(mmdiff):
    x, recipe = tokens(), Recipe.from_params(ARCHITECTURE, STAGE)
    z, _ = published(unequal(), x)
    started = warm_start(load_dictionary(mmdiff), recipe, lambda: x)
    close(started.encode(x), z)
    jumprelu = Recipe.from_params({**ARCHITECTURE, "kind": "jumprelu"}, STAGE)
    pre = warm_start(load_dictionary(mmdiff), jumprelu, lambda: x).pre_activations(x)
    close(pre[torch.from_numpy(z > 0)], z[z > 0])


def test_a_whole_training_keeps_the_divisor_in_its_file(tmp_path):
    shards = write_sparse_shards(tmp_path / "shards", scale=30.0)
    weights = random_weights(6)
    del weights["threshold"]
    # One that fits the data, in spite of its unequal rows.
    tokens = torch.cat([chunk.values for chunk in ActivationStore(shards, 0).chunks(("text",))])
    rows, weights["b_dec"] = weights["W_dec"], tokens.mean(dim=0)
    weights["W_enc"] = (0.4 * rows / rows.square().sum(dim=1, keepdim=True)).T.contiguous()
    file = write_mmdiff(tmp_path / "layer_0.pt", weights)
    imported = load_dictionary(PublishedSource("mmdiff", file, k=K, subtract_decoder_bias=True))
    save_dictionary(imported, tmp_path / "base", {"input_scale": 2.0**-5})
    train_dictionary(
        shards, tmp_path / "base", 0, 3, ARCHITECTURE, STAGE, {}, tmp_path / "adapted", tmp_path / "work"
    )  # fmt: skip
    found = load_file(tmp_path / "adapted" / "sae_weights.safetensors")
    assert torch.equal(found["divisor"], imported.divisor)
    assert not torch.equal(found["W_enc"], imported.W_enc)


def test_scores_and_statistics_of_the_published_choice(tmp_path, mmdiff):
    store = ActivationStore(write_sparse_shards(tmp_path / "shards", scale=2.0), 0)
    whole = next(iter(store.chunks(store.token_types, 10**6)))
    z, x_hat = published(unequal(), whole.values)
    errors = float(((whole.values.double().numpy() - x_hat) ** 2).sum())
    dictionary = load_dictionary(mmdiff)
    score = score_dictionaries(store, {100: dictionary})[100]["all"]
    assert score.active == (z > 0).sum() and score.errors == pytest.approx(errors, rel=1e-5)
    running = collect_statistics(store, dictionary, 3, 256)
    assert running.fires.sum((0, 1)).tolist() == (z > 0).sum(0).tolist()
    np.testing.assert_allclose(running.squares.sum((0, 1)), (z**2).sum(0), rtol=1e-4)


def negative() -> dict[str, torch.Tensor]:
    """Weights with thresholds of every size; those below zero let negative activations pass."""
    weights = random_weights(5)
    weights["threshold"] = torch.tensor([-5.0, -0.4, -1e-3, 0.0, 1e-30, 0.3, 1e30, 0.8]).repeat(D_SAE // 8)
    return weights


def gated(weights, x, relu=False):
    """Return `pre * (pre > threshold)` in units of unit rows, and the reconstruction, in float64."""
    one = {name: value.double().numpy() for name, value in weights.items()}
    pre = x.double().numpy() @ one["W_enc"] + one["b_enc"]
    z = (np.maximum(pre, 0) if relu else pre) * (pre > one["threshold"])
    return z * np.linalg.norm(one["W_dec"], axis=1), z @ one["W_dec"] + one["b_dec"]


def test_mmdiff_thresholds_below_zero_do_as_the_authors_code(tmp_path):
    """Its gate is `pre * (pre > threshold)`, without a ReLU."""
    path, x = write_mmdiff(tmp_path / "layer_3.pt", negative()), tokens()
    z, x_hat = gated(negative(), x)
    assert (z < 0).any(0).reshape(-1, 8).all(0).tolist() == [True] * 2 + [(z[:, 2::8] < 0).any(0).all()] + [
        False
    ] * 5
    imported = load_dictionary(PublishedSource("mmdiff", path))
    save_dictionary(imported, tmp_path / "saved", {"layer": 3})
    again = load_dictionary(PublishedSource("vlmdiff", tmp_path / "saved"))
    for dictionary in (imported, load_dictionary(tmp_path / "saved"), again):
        close(dictionary.threshold[:6], negative()["threshold"][:6] * negative()["W_dec"].norm(dim=1)[:6])
        close(dictionary.encode(x), z)
        close(dictionary(x), x_hat)
        close(dictionary.reconstruct(x).x_hat, x_hat)
        close(dense(dictionary.active_pairs(x), len(x)), z)
        assert float(dictionary.reconstruct(x).l0.detach()) == pytest.approx(
            (z != 0).sum() / len(x), rel=1e-6
        )
    sae_lens = pytest.importorskip("sae_lens")
    with pytest.raises((RuntimeError, KeyError), match="threshold"):
        sae_lens.SAE.load_from_disk(tmp_path / "saved")


@pytest.mark.parametrize("format", ["gemma_scope", "saelens"])
def test_where_a_relu_comes_first_a_threshold_below_zero_acts_as_zero(tmp_path, format):
    x, config = tokens(), {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    if format == "gemma_scope":
        path = write_gemma_scope(tmp_path / "layer_3", negative())
    else:
        path = write_saelens(
            tmp_path / "sae", negative(), {**config, "metadata": {"sae_lens_version": "6.54.0"}}
        )
    z, x_hat = gated(negative(), x, relu=True)
    dictionary = load_dictionary(PublishedSource(format, path))
    assert dictionary.below_zero is None
    close(dictionary.encode(x), z)
    close(dictionary(x), x_hat)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_thresholds_that_are_no_numbers_are_refused(tmp_path, value):
    weights = negative()
    weights["threshold"][3] = value
    with pytest.raises(DictionaryError, match="threshold holds NaN or infinite"):
        load_dictionary(PublishedSource("mmdiff", write_mmdiff(tmp_path / "layer_3.pt", weights)))


def test_scores_count_negative_activations_as_active(tmp_path):
    store = ActivationStore(write_sparse_shards(tmp_path / "shards", scale=2.0), 0)
    x = next(iter(store.chunks(store.token_types, 10**6))).values
    dictionary = load_dictionary(PublishedSource("mmdiff", write_mmdiff(tmp_path / "layer_3.pt", negative())))
    score = score_dictionaries(store, {100: dictionary})[100]["all"]
    assert score.active == (gated(negative(), x)[0] != 0).sum()


def test_training_on_starts_thresholds_below_zero_where_they_can_be_trained(tmp_path, caplog):
    dictionary = load_dictionary(PublishedSource("mmdiff", write_mmdiff(tmp_path / "layer_3.pt", negative())))
    recipe = Recipe.from_params({**ARCHITECTURE, "kind": "jumprelu"}, STAGE)
    with caplog.at_level(logging.WARNING):
        started = warm_start(dictionary, recipe, tokens)
    assert f"{D_SAE // 2} thresholds are not positive" in caplog.text
    assert (started.threshold > 0).all() and started.below_zero is None
    assert json.dumps(sorted(started.state_dict())) == json.dumps(
        sorted(["W_enc", "b_enc", "W_dec", "b_dec", "log_threshold"])
    )

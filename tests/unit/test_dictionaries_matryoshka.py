"""Matryoshka dictionaries: nested reconstructions by sums over pairs, against dense products and autograd."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
from pydantic import ValidationError
from small_trainings import STAGE, TOPK, content, train
from sparse_activations import write_sparse_shards
from torch import Tensor, nn

from vlmdiff.activations.store import ActivationStore
from vlmdiff.config.budgets import ArchitectureConfig, Budget, differences
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.initial import random_start, start
from vlmdiff.dictionaries.matryoshka import MatryoshkaDictionary, by_level
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.task import DictionaryTask, ShuffledBatches

D_MODEL, D_SAE, K, N = 24, 101, 6, 70
PREFIXES = (7, 30, 101)
SHAPE = {**TOPK, "kind": "matryoshka", "d_sae": D_SAE, "k": K, "prefixes": [7, 30]}
MATRYOSHKA = {**TOPK, "kind": "matryoshka", "prefixes": [0.125, 24]}


def begun(seed: int, subtract: bool = True) -> MatryoshkaDictionary:
    """Return a dictionary of normal weights with unit rows, of which some fire hardly ever."""
    torch.manual_seed(seed)
    dictionary = MatryoshkaDictionary(D_MODEL, D_SAE, K, PREFIXES, subtract)
    for parameter in dictionary.parameters():
        nn.init.normal_(parameter, std=0.3)
    dictionary.normalise_decoder()
    with torch.no_grad():
        dictionary.b_enc[::4] -= 3
    return dictionary


def batches(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(N, D_MODEL, generator=generator) for _ in range(steps)]


def plain_loss(
    dictionary: MatryoshkaDictionary, x: Tensor, dead: Tensor, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both losses, and which features fire: a dense decode of every prefix, and autograd."""
    pre = (x - dictionary.b_dec * dictionary.subtract_decoder_bias) @ dictionary.W_enc + dictionary.b_enc
    least = pre.flatten().sort(descending=True).values[K * len(x) - 1]
    z = torch.where(pre >= least, pre, 0.0).clamp_min(0)
    unit = (x - x.mean(dim=0)).square().sum() if kind == "fvu" else len(x)
    loss = torch.zeros((), dtype=x.dtype)
    for size in PREFIXES:
        error = x - (z[:, :size] @ dictionary.W_dec[:size] + dictionary.b_dec)
        loss = loss + error.square().sum() / unit / len(PREFIXES)
    if not dead.any():
        return loss, torch.zeros(()), (z > 0).any(dim=0)
    k = min(D_MODEL // 2, int(dead.sum()))
    masked = pre.masked_fill(~dead, -torch.inf)
    revived = torch.zeros_like(pre).scatter(1, masked.topk(k, dim=1).indices, 1) * pre.clamp_min(0)
    error = error.detach()
    spread = (error - error.mean(dim=0)).square().sum()
    rest = (error - revived @ dictionary.W_dec).square().sum() / spread
    return loss, min(1, int(dead.sum()) / (D_MODEL // 2)) * rest, (z > 0).any(dim=0)


@pytest.mark.parametrize("reconstruction", ["fvu", "mse"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("alone", [True, False], ids=["pairs", "written out"])
def test_a_trajectory_equals_a_dense_twin(alone, clip, subtract, reconstruction):
    """Dead features come and go; in float32 by compiled loops, the twin in float64."""
    rate, silence = 1e-2, 3 * N
    fast, slow = begun(1, subtract), begun(1, subtract).double()
    stage = {**STAGE, "learning_rate": rate, "auxk_coefficient": 0.5, "dead_after_tokens": silence}
    recipe = Recipe.from_params({**SHAPE, "reconstruction": reconstruction}, stage)
    task = DictionaryTask(fast, recipe, 1.0)
    adam, plain = (
        DictionaryAdam(fast, rate, (0.9, 0.999), alone, clip),
        torch.optim.Adam(slow.parameters(), rate),
    )
    silent, counts = torch.zeros(D_SAE, dtype=torch.int64), []
    for x in batches(12):
        adam.zero_grad()
        found = task.training_step(x, 0)
        found["loss"].backward()
        adam.step()
        plain.zero_grad()
        dead = silent >= silence
        loss, auxiliary, fires = plain_loss(slow, x.double(), dead, reconstruction)
        (loss + 0.5 * auxiliary).backward()
        slow.project_decoder_gradient()
        if clip is not None:
            nn.utils.clip_grad_norm_(slow.parameters(), clip)
        plain.step()
        slow.normalise_decoder()
        silent = (silent + N).masked_fill(fires, 0)
        counts.append(int(dead.sum()))
        torch.testing.assert_close(found["loss"].double(), loss + 0.5 * auxiliary, rtol=1e-5, atol=0)
        torch.testing.assert_close(found["auxiliary"].double(), auxiliary.double(), rtol=1e-4, atol=1e-9)
        assert torch.equal(task.silent_tokens, silent)
    assert 0 < max(counts) < D_SAE
    for name, value in slow.named_parameters():
        torch.testing.assert_close(dict(fast.named_parameters())[name].double(), value, rtol=1e-3, atol=2e-5)


def test_gradients_without_compiled_loops_are_those_of_autograd():
    """Numbers of another precision take the path of accelerators."""
    dictionary, x = begun(2).double(), batches(1)[0].double()
    task = DictionaryTask(dictionary, Recipe.from_params(SHAPE, STAGE), 1.0)
    task.training_step(x, 0)["loss"].backward()
    twin = begun(2).double()
    plain_loss(twin, x, torch.zeros(D_SAE, dtype=torch.bool), "fvu")[0].backward()
    for name, value in twin.named_parameters():
        torch.testing.assert_close(dict(dictionary.named_parameters())[name].grad, value.grad, msg=name)


def test_reconstructions_are_those_of_the_prefixes():
    dictionary, x = begun(3), batches(1)[0]
    found, z = dictionary.reconstruct(x), dictionary.encode(x)
    for size, x_hat in zip(PREFIXES, (*found.shorter, found.x_hat), strict=True):
        expected = z[:, :size] @ dictionary.W_dec[:size] + dictionary.b_dec
        torch.testing.assert_close(x_hat, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.firings, (z > 0).sum(dim=0)) and float(found.l0) == K


def test_pairs_are_sorted_by_level_and_then_by_token():
    dictionary, x = begun(4), batches(1)[0]
    pairs = dictionary.choose(dictionary.shifted(x))
    found = by_level(pairs, PREFIXES)
    z = torch.zeros(3 * N, D_SAE)
    z[found.tokens(), found.columns] = found.values
    whole = dictionary.encode(x).detach()
    for level, (low, high) in enumerate(zip((0, *PREFIXES), PREFIXES, strict=False)):
        own = z[level * N : (level + 1) * N]
        torch.testing.assert_close(own[:, low:high], whole[:, low:high])
        assert not own[:, :low].any() and not own[:, high:].any()


def test_one_prefix_is_batch_topk():
    from vlmdiff.dictionaries.batch_topk import BatchTopKDictionary

    x, nested = batches(1)[0], MatryoshkaDictionary(D_MODEL, D_SAE, K, (D_SAE,))
    nested.load_state_dict(begun(5).state_dict())
    plain = BatchTopKDictionary(D_MODEL, D_SAE, K)
    plain.load_state_dict(nested.state_dict())
    found, expected = nested.reconstruct(x), plain.reconstruct(x)
    assert found.shorter == () and torch.equal(nested.least, plain.least)
    torch.testing.assert_close(found.x_hat, expected.x_hat)
    for one in (found, expected):
        (one.x_hat - x).square().sum().backward()
    for name, value in plain.named_parameters():
        torch.testing.assert_close(dict(nested.named_parameters())[name].grad, value.grad)


@pytest.mark.parametrize("prefixes", [(30, 7, 101), (7, 7, 101), (7, 30), (0, 101), (7, 101, 200)])
def test_prefixes_that_do_not_rise_to_the_whole_are_refused(prefixes):
    with pytest.raises(ValueError, match="prefixes must rise"):
        MatryoshkaDictionary(D_MODEL, D_SAE, K, prefixes)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """The same training with prefixes and without."""
    stage = {**STAGE, "steps": 300, "learning_rate": 1e-2, "snapshots": []}
    folder = tmp_path_factory.mktemp("trained")
    return {
        kind: train(shards, folder / kind, folder / "work", stage=stage, architecture=shape)
        for kind, shape in (("matryoshka", MATRYOSHKA), ("batch_topk", {**TOPK, "kind": "batch_topk"}))
    }


@torch.no_grad()
def unexplained_by(folder, x: Tensor, size: int) -> float:
    """Return the FVU of a trained dictionary's first features alone, in use."""
    used = load_dictionary(folder)
    x_hat = used.encode(x)[:, :size] @ used.W_dec[:size] + used.b_dec
    return float((x_hat - x).square().sum() / (x - x.mean(0)).square().sum())


def test_the_first_features_reconstruct_by_themselves(trained, shards):
    x = torch.cat([chunk.values for chunk in ActivationStore(shards, 0).chunks(("text",))])
    nested, plain = ([unexplained_by(trained[kind], x, size) for size in (8, 24, 64)] for kind in trained)
    assert nested[0] < 0.8 * plain[0] and nested[1] < 0.8 * plain[1]
    assert nested == sorted(nested, reverse=True) and nested[2] < 0.5
    l0 = float((load_dictionary(trained["matryoshka"]).encode(x) > 0).sum() / len(x))
    assert 3.2 < l0 < 4.8


def test_it_is_stored_as_jumprelu_and_tells_its_prefixes(trained):
    told = {kind: json.loads((folder / "cfg.json").read_text()) for kind, folder in trained.items()}
    assert {one["architecture"] for one in told.values()} == {"jumprelu"}
    assert told["matryoshka"]["metadata"]["prefixes"] == [8, 24, 64]
    assert "prefixes" not in told["batch_topk"]["metadata"]


def test_one_that_was_interrupted_equals_one_that_was_not(shards, tmp_path, monkeypatch):
    values = {"architecture": MATRYOSHKA, "checkpoint_every_s": 0.0}
    whole = content(train(shards, tmp_path / "whole", tmp_path / "work", **values))
    batches = ShuffledBatches.__iter__

    def broken(self):
        for step, batch in enumerate(batches(self), self.start_step):
            if step == 37:
                raise RuntimeError("power cut")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ShuffledBatches, "__iter__", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            train(shards, tmp_path / "cut", tmp_path / "cut_work", **values)
    assert content(train(shards, tmp_path / "cut", tmp_path / "cut_work", **values)) == whole


@pytest.mark.parametrize(
    ("kind", "prefixes", "warning"),
    [
        ("matryoshka", [8, 24], None),
        ("matryoshka", [8, 32], r"in prefixes of \[8, 24, 64\], and now \[8, 32, 64\]"),
        ("batch_topk", [8, 24], r"without prefixes, and now \[8, 24, 64\]"),
    ],
)
def test_a_warm_start_keeps_rows_and_warns_of_other_prefixes(
    trained, shards, caplog, kind, prefixes, warning
):
    recipe = Recipe.from_params({**MATRYOSHKA, "prefixes": prefixes}, STAGE, trained[kind])
    with caplog.at_level(logging.WARNING):
        dictionary, _ = start(ActivationStore(shards, 0), recipe, trained[kind], 1)
    assert isinstance(dictionary, MatryoshkaDictionary) and dictionary.prefixes == (*prefixes, 64)
    torch.testing.assert_close(dictionary.W_dec, load_dictionary(trained[kind]).W_dec)
    assert re.search(warning, caplog.text) if warning else not caplog.text


def test_a_crosscoder_may_have_prefixes():
    """Two models' residuals lie side by side: a reconstruction is one of both, whatever the prefix."""
    sample = torch.cat([one @ torch.randn(D_MODEL, 2 * D_MODEL) for one in batches(3)])
    dictionary = random_start(Recipe.from_params(SHAPE, STAGE), sample, 1, models=2)
    assert isinstance(dictionary, MatryoshkaDictionary)
    found, z = dictionary.reconstruct(sample), dictionary.encode(sample)
    expected = z[:, :7] @ dictionary.W_dec[:7] + dictionary.b_dec
    torch.testing.assert_close(found.shorter[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "topk", "prefixes": [0.5]}, "found with kind topk, but only matryoshka"),
        ({"prefixes": [0.5, 0.25]}, r"which are \[512, 256\] of d_sae = 1024"),
        ({"prefixes": [256, 1024]}, "stay below d_sae"),
        ({"prefixes": [0.5, 1.0]}, r"which are \[512, 1\]"),
        ({"prefixes": [100.5]}, "whole numbers"),
        ({"prefixes": [0.5, 512]}, "expected fractions below 1 or whole numbers that rise"),
        ({"prefixes": []}, "at least 1 item"),
        ({"prefixes": [0]}, "greater than 0"),
        ({"d_sae": 8}, r"found none, which are \[1, 1, 2, 4\] of d_sae = 8"),
    ],
)
def test_prefixes_of_a_configuration_that_do_not_fit(given, message):
    with pytest.raises(ValidationError, match=message):
        ArchitectureConfig(**{"kind": "matryoshka", **given})


def test_prefixes_are_compared_in_features_and_have_the_defaults_of_the_paper():
    budget = Budget(steps=10, learning_rate=1e-3)

    def compared(**given):
        return [budget.compared(ArchitectureConfig(kind="matryoshka", **given), False)]

    paper = compared(d_sae=65536)
    assert (
        paper[0]["prefixes"] == [2048, 6144, 14336, 30720, 65536] and paper[0]["auxk_coefficient"] == 1 / 32
    )
    assert not list(differences(compared(prefixes=[0.25, 512]), compared(prefixes=[256, 0.5])))
    told = list(differences(compared(prefixes=[256]), compared(prefixes=[512])))
    assert told == ["prefixes [256, 1024] against [512, 1024]"]
    assert "prefixes" not in budget.compared(ArchitectureConfig(kind="batch_topk"), False)

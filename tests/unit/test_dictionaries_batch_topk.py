"""BatchTopK: the largest pre-activations of a batch, and the threshold that stands for them in use."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_trainings import STAGE, TOPK, content, train
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.batch_topk import BatchTopKDictionary, largest_of_batch
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.modules import JumpReLUDictionary
from vlmdiff.dictionaries.task import ShuffledBatches
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import TRAINING_LOG

BATCH_TOPK = {**TOPK, "kind": "batch_topk"}


def drawn(seed: int, n: int, d_model: int, d_sae: int, k: int, bias: float = 0.0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    dictionary = BatchTopKDictionary(d_model, d_sae, k)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(d_sae, d_model, generator=generator))
        dictionary.normalise_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec.T + 0.1 * torch.randn(d_model, d_sae, generator=generator))
        dictionary.b_enc.copy_(bias + 0.1 * torch.randn(d_sae, generator=generator))
        dictionary.b_dec.copy_(0.1 * torch.randn(d_model, generator=generator))
    return dictionary, torch.randn(n, d_model, generator=generator)


def dense(pairs, shape) -> torch.Tensor:
    z = torch.zeros(shape, dtype=pairs.values.dtype)
    z[pairs.tokens(), pairs.columns] = pairs.values
    return z


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 90),
    k=st.integers(1, 6),
    bias=st.sampled_from([0.0, -1.0, -9.0]),
    cutoff=st.sampled_from([0.0, 1e-7, 0.3, 2.0, 50.0]),
)
def test_the_largest_of_a_batch_whatever_is_tried_first(seed, n, k, bias, cutoff):
    dictionary, x = drawn(seed, n, 8, 24, k, bias)
    pre = torch.addmm(dictionary.b_enc, x, dictionary.W_enc).detach()
    found = largest_of_batch(x, dictionary.W_enc, dictionary.b_enc, k, cutoff)
    positive = pre[pre > 0]
    expected = positive.sort(descending=True).values[: k * n]
    assert torch.equal(found.values.sort(descending=True).values, expected)
    assert torch.equal(dictionary.activate(pre)[pre <= 0], torch.zeros(int((pre <= 0).sum())))
    z = dense(found, pre.shape)
    assert torch.equal(z[z > 0], pre[z > 0]) and len(found.begins) == n + 1


def test_both_paths_reconstruct_alike_with_the_gradients_of_autograd():
    dictionary, x = drawn(1, 200, 12, 48, 3)
    found = dictionary.reconstruct(x)
    torch.testing.assert_close(found.x_hat, dictionary(x), atol=1e-5, rtol=1e-5)
    assert float(found.l0) == 3.0 and int(found.firings.sum()) == 600
    (found.x_hat - x).square().sum().backward()
    sparse = {name: value.grad.clone() for name, value in dictionary.named_parameters()}
    dictionary.zero_grad()
    (dictionary(x) - x).square().sum().backward()
    for name, value in dictionary.named_parameters():
        torch.testing.assert_close(sparse[name], value.grad, atol=1e-3, rtol=1e-4)
    compiled = dense(found_pairs(dictionary, x), (200, 48))
    # Numbers of another precision take the path of accelerators.
    others = dense(found_pairs(dictionary.double(), x.double()), (200, 48))
    torch.testing.assert_close(others.float(), compiled)


def found_pairs(dictionary, x):
    return dictionary.choose(dictionary.shifted(x))


def test_tokens_share_what_they_need():
    dictionary, x = drawn(2, 64, 12, 48, 3)
    x[:32] *= 0.05
    counts = found_pairs(dictionary, x).begins.diff()
    assert counts.sum() == 3 * 64 and counts[:32].sum() < counts[32:].sum() / 3


def test_the_threshold_is_the_running_mean_of_the_smallest_active_value():
    dictionary, x = drawn(3, 100, 12, 48, 3)
    smallest = [float(found_pairs(dictionary, factor * x).values.min()) for factor in (1.0, 1.5)]
    dictionary.reconstruct(x)
    assert float(dictionary.least) == pytest.approx(smallest[0])
    dictionary.reconstruct(1.5 * x)
    assert float(dictionary.least) == pytest.approx(0.99 * smallest[0] + 0.01 * smallest[1], rel=1e-5)
    with torch.no_grad():
        dictionary.reconstruct(9 * x)
    assert float(dictionary.least) == pytest.approx(0.99 * smallest[0] + 0.01 * smallest[1], rel=1e-5)


def test_in_use_it_is_a_jumprelu_dictionary_in_other_units_too():
    dictionary, x = drawn(4, 100, 12, 48, 3)
    dictionary.reconstruct(x)
    used = dictionary.as_used()
    assert isinstance(used, JumpReLUDictionary)
    pre = dictionary.pre_activations(x)
    assert torch.equal(used.encode(x), torch.where(pre > dictionary.least, pre, 0.0))
    dictionary.rescale_input(4.0)
    torch.testing.assert_close(dictionary.as_used().encode(4 * x), 4 * used.encode(x))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


def test_a_trained_one_is_as_sparse_in_use(shards, tmp_path):
    stage = {**STAGE, "steps": 400, "learning_rate": 1e-2, "snapshots": []}
    folder = train(shards, tmp_path / "base", tmp_path / "work", architecture=BATCH_TOPK, stage=stage)
    table = read_table(folder / "training.csv", TRAINING_LOG)
    assert table.fvu.iloc[-1] < 0.35 * table.fvu.iloc[0] and table.l0.iloc[-1] == 4.0
    config = json.loads((folder / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    x = torch.cat([chunk.values for chunk in ActivationStore(shards, 0).chunks(("text",))])
    used = load_dictionary(folder)
    l0 = float((used.encode(x) > 0).sum() / len(x))
    assert 3.2 < l0 < 4.8
    fvu = float((used(x) - x).square().sum() / (x - x.mean(0)).square().sum())
    assert fvu == pytest.approx(table.fvu.iloc[-1], rel=0.3)


def test_one_that_was_interrupted_equals_one_that_was_not(shards, tmp_path, monkeypatch):
    values = {"architecture": BATCH_TOPK, "checkpoint_every_s": 0.0}
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


def test_a_warm_start_keeps_the_rows_of_what_it_starts_from(shards, tmp_path):
    from vlmdiff.dictionaries.initial import start
    from vlmdiff.dictionaries.recipe import Recipe

    base = train(shards, tmp_path / "base", tmp_path / "work")
    recipe = Recipe.from_params(BATCH_TOPK, STAGE, base)
    dictionary, _ = start(ActivationStore(shards, 0), recipe, base, 1)
    assert isinstance(dictionary, BatchTopKDictionary)
    torch.testing.assert_close(dictionary.W_dec, load_dictionary(base).W_dec)

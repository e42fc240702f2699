"""The auxiliary loss for dead features: against plain autograd, and what it is good for."""

import copy

import pytest
import torch
from small_trainings import STAGE, TOPK, content, train
from sparse_activations import sparse_residuals, write_sparse_shards
from torch import nn

from vlmdiff.dictionaries.initial import estimate_scale, random_start
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.task import DictionaryTask, ShuffledBatches
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import TRAINING_LOG

D_MODEL, D_SAE, K, N = 24, 101, 6, 70
ARCHITECTURE = {**TOPK, "d_sae": D_SAE, "k": K}


def start(seed: int, subtract: bool = True) -> TopKDictionary:
    """Return a dictionary of normal weights with unit rows."""
    torch.manual_seed(seed)
    dictionary = TopKDictionary(D_MODEL, D_SAE, K, subtract)
    for parameter in dictionary.parameters():
        nn.init.normal_(parameter, std=0.3)
    dictionary.normalise_decoder()
    return dictionary


def batches(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(N, D_MODEL, generator=generator) for _ in range(steps)]


def plain_loss(dictionary: TopKDictionary, x: torch.Tensor, dead: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return both losses, and which features fire, by dense products and autograd alone."""
    pre = (x - dictionary.b_dec * dictionary.subtract_decoder_bias) @ dictionary.W_enc + dictionary.b_enc
    z = torch.zeros_like(pre).scatter(1, pre.topk(K, dim=1).indices, 1) * pre.clamp_min(0)
    variance = (x - x.mean(dim=0)).square().sum()
    error = x - (z @ dictionary.W_dec + dictionary.b_dec)
    loss, fires = error.square().sum() / variance, (z > 0).any(dim=0)
    if not dead.any():
        return loss, torch.zeros(()), fires
    k = min(D_MODEL // 2, int(dead.sum()))
    masked = pre.masked_fill(~dead, -torch.inf)
    z = torch.zeros_like(pre).scatter(1, masked.topk(k, dim=1).indices, 1) * pre.clamp_min(0)
    error = error.detach()
    spread = (error - error.mean(dim=0)).square().sum()
    rest = (error - z @ dictionary.W_dec).square().sum() / spread
    return loss, min(1, int(dead.sum()) / (D_MODEL // 2)) * rest, fires


def quiet(dictionary: TopKDictionary, every: int) -> TopKDictionary:
    """Let every so many features fire hardly ever, though their pre-activations are positive at times."""
    with torch.no_grad():
        dictionary.b_enc[::every] -= 3
    return dictionary


@pytest.mark.parametrize("every, silence", [(3, 3 * N), (20, 10**6)], ids=["more than k", "fewer than k"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("alone", [True, False], ids=["pairs", "written out"])
def test_a_trajectory_equals_plain_autograd(alone, subtract, every, silence):
    """Dead features come and go; in float32 by compiled loops, and by torch's own sums over pairs."""
    rate, begun = 1e-2, quiet(start(1, subtract), every).double()
    fast, slow = copy.deepcopy(begun).float(), copy.deepcopy(begun)
    stage = {**STAGE, "learning_rate": rate, "auxk_coefficient": 0.5, "dead_after_tokens": silence}
    task = DictionaryTask(fast, Recipe.from_params(ARCHITECTURE, stage), 1.0)
    task.silent_tokens[::20] = silence
    adam, plain = DictionaryAdam(fast, rate, alone=alone), torch.optim.Adam(slow.parameters(), lr=rate)
    silent, counts = task.silent_tokens.clone(), []
    for x in batches(14):
        adam.zero_grad()
        found = task.training_step(x, 0)
        found["loss"].backward()
        adam.step()
        plain.zero_grad()
        dead = silent >= silence
        loss, auxiliary, fires = plain_loss(slow, x.double(), dead)
        (loss + 0.5 * auxiliary).backward()
        slow.project_decoder_gradient()
        plain.step()
        slow.normalise_decoder()
        silent = torch.where(fires, 0, silent + N)
        counts.append(int(dead.sum()))
        assert float(found["auxiliary"]) == pytest.approx(float(auxiliary), rel=1e-4)
        assert float(found["fvu"]) == pytest.approx(float(loss), rel=1e-4)
    assert counts[0] == 6 and min(counts) > 0 and fast.defers == alone
    assert (max(counts) > D_MODEL // 2) == (every == 3)
    assert torch.equal(task.silent_tokens, silent)
    for name, expected in slow.named_parameters():
        before = getattr(begun, name)
        moved = getattr(fast, name).double() - before
        assert (moved - (expected - before)).norm() <= 2e-4 * (expected - before).norm(), name


def test_double_precision_takes_the_plain_way_to_the_same_gradients():
    fast, x, dead = start(2).double(), batches(1)[0].double(), torch.arange(0, D_SAE, 3)
    slow = copy.deepcopy(fast)
    rest = fast.reconstruct_by(x, dead, 12)
    fraction_unexplained(x, rest).backward()
    mask = torch.zeros(D_SAE, dtype=torch.bool).index_fill(0, dead, True)
    pre = slow.pre_activations(x).masked_fill(~mask, -torch.inf)
    top = pre.topk(12, dim=1)
    expected = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu()) @ slow.W_dec
    fraction_unexplained(x, expected).backward()
    torch.testing.assert_close(rest, expected)
    for (name, one), (_, two) in zip(fast.named_parameters(), slow.named_parameters()):
        torch.testing.assert_close(one.grad, two.grad, msg=name)
    assert not fast.W_dec.grad[~mask].any() and not fast.W_enc.grad[:, ~mask].any()


def test_where_nothing_is_dead_nothing_is_done(monkeypatch):
    monkeypatch.setattr(TopKDictionary, "reconstruct_by", None)
    weights = []
    for coefficient in (0.5, 0.0):
        recipe = Recipe.from_params(
            ARCHITECTURE, {**STAGE, "auxk_coefficient": coefficient, "dead_after_tokens": 10**9}
        )
        task = DictionaryTask(start(3), recipe, 1.0)
        adam = DictionaryAdam(task.dictionary, 1e-3)
        for x in batches(3):
            adam.zero_grad()
            found = task.training_step(x, 0)
            found["loss"].backward()
            adam.step()
        assert found["auxiliary"] == 0
        weights.append([one.detach().clone() for one in task.dictionary.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*weights))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


def revived(coefficient: float, steps: int = 300) -> tuple[float, int]:
    """Train with half of the features pushed out; return FVU and dead features of other tokens."""
    x = torch.from_numpy(sparse_residuals(20_000, 32, 96, 4, seed=1))
    x, y = (part * estimate_scale(x) for part in (x[:18_000], x[18_000:]))
    stage = {**STAGE, "steps": steps, "batch_tokens": 256, "learning_rate": 3e-3, "dead_after_tokens": 2560}
    recipe = Recipe.from_params({**TOPK, "d_sae": 128}, {**stage, "auxk_coefficient": coefficient})
    task = DictionaryTask(random_start(recipe, x, 3), recipe, 1.0)
    with torch.no_grad():
        task.dictionary.b_enc[:64] -= 0.4
    found, generator = task.configure_optimizers(), torch.Generator().manual_seed(0)
    for _ in range(steps):
        found["optimizer"].zero_grad()
        task.training_step(x[torch.randint(len(x), (256,), generator=generator)], 0)["loss"].backward()
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    with torch.no_grad():
        z = task.dictionary.encode(y)
        fvu = float(fraction_unexplained(y, task.dictionary.decode(z)))
    return fvu, int((z > 0).any(dim=0).logical_not().sum())


def test_dead_features_come_back():
    (fvu, dead), (fvu_without, dead_without) = revived(1 / 32), revived(0.0)
    assert dead_without > 40 and dead < dead_without / 3 and fvu < fvu_without


CROWDED = {**TOPK, "d_sae": 256, "k": 2}
REVIVING = {**STAGE, "snapshots": [], "dead_after_tokens": 1280}


def test_a_resumed_training_with_dead_features_equals_an_uninterrupted_one(shards, tmp_path, monkeypatch):
    settings = {"architecture": CROWDED, "stage": REVIVING}
    whole = train(shards, tmp_path / "whole", tmp_path / "work", **settings)
    rows = read_table(whole / "training.csv", TRAINING_LOG)
    assert rows.auxiliary[rows.step == 31].item() > 0
    original = ShuffledBatches.__iter__

    def cut(self):
        yield from (batch for _, batch in zip(range(31), original(self)))
        raise InterruptedError

    monkeypatch.setattr(ShuffledBatches, "__iter__", cut)
    with pytest.raises(InterruptedError):
        train(shards, tmp_path / "cut", tmp_path / "work", checkpoint_every_s=0.0, **settings)
    monkeypatch.undo()
    assert content(train(shards, tmp_path / "cut", tmp_path / "work", **settings)) == content(whole)


@pytest.mark.parametrize(
    "kind, initial, given, expected",
    [
        ("topk", "random", None, 1 / 32),
        ("topk", "dictionaries/base", None, 0.0),
        ("topk", "dictionaries/base", 0.1, 0.1),
        ("topk", "random", 0.0, 0.0),
        ("jumprelu", "random", None, 0.0),
    ],
)
def test_random_starts_have_it_and_warm_starts_do_not(kind, initial, given, expected):
    stage = {**STAGE, "auxk_coefficient": given, "dead_after_tokens": None}
    assert Recipe.from_params({**TOPK, "kind": kind}, stage, initial).auxk_coefficient == expected


@pytest.mark.parametrize(
    "steps, batch, tokens", [(1000, 2048, 204_800), (10**6, 4096, 10_000_000), (3, 128, 128), (25, 10, 25)]
)
def test_a_feature_is_dead_after_a_tenth_of_the_training(steps, batch, tokens):
    stage = {**STAGE, "steps": steps, "batch_tokens": batch}
    assert Recipe.from_params(TOPK, stage).dead_after_tokens == tokens
    assert Recipe.from_params(TOPK, {**stage, "dead_after_tokens": 77}).dead_after_tokens == 77

"""Schedules, clipping and losses of a training against plain loops in float64; snapshots; checkpoints."""

import json
import logging
import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from small_trainings import JUMPRELU, STAGE, TOPK, content, train
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries import callbacks
from vlmdiff.dictionaries.callbacks import ResumePoint
from vlmdiff.dictionaries.files import load_dictionary, load_weights
from vlmdiff.dictionaries.initial import start
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.task import DictionaryTask
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import TRAINING_LOG

# Warm-ups end within the training, the clip cuts some of its steps.
AUTHORS = {
    **STAGE,
    "steps": 24,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 5.0,
    "sparsity_warmup": 12.0,
    "gradient_clip_norm": 0.72,
    "snapshots": [],
}
ARCHITECTURE = {**JUMPRELU, "bandwidth": 0.2, "reconstruction": "mse", "l0_coefficient": 3.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


def jumped(pre, threshold, width):
    """JumpReLU and its step with the published straight-through gradients, by terms that autograd knows."""
    inside = ((pre - threshold).abs() < width / 2).double()
    passed, fires = (pre > threshold).double(), (pre > threshold).double()
    moving = threshold - threshold.detach()
    z = pre * passed - threshold.detach() / width * inside * moving
    return z, fires - inside * moving / width


def train_in_float64(shards, architecture, stage, seed):
    """The whole training as a plain loop; returns weights in raw units and the norms of all gradients."""
    recipe, store = Recipe.from_params(architecture, stage), ActivationStore(shards, 0)
    found, scale = start(store, recipe, "random", derive_seed(seed, "start"))
    p = {name: value.detach().double().requires_grad_() for name, value in found.named_parameters()}
    adam = torch.optim.Adam(p.values(), lr=1.0, betas=(0.0, 0.999))
    norms, rates = [], []
    batches = store.batches(["text"], stage["batch_tokens"], derive_seed(seed, "order"))
    for step, x in zip(range(stage["steps"]), batches):
        x = x.double() * scale
        pre = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        z, fires = jumped(pre, p["log_threshold"].exp(), architecture["bandwidth"])
        x_hat = z @ p["W_dec"] + p["b_dec"]
        penalty = 3.0 * min(1.0, step / 12) * (fires.sum(dim=1).mean() / architecture["k"] - 1) ** 2
        adam.zero_grad()
        (((x - x_hat) ** 2).sum(dim=1).mean() + penalty).backward()
        with torch.no_grad():
            rows, gradient = p["W_dec"], p["W_dec"].grad
            gradient -= (gradient * rows).sum(dim=1, keepdim=True) * rows
            norms.append(float(torch.cat([one.grad.flatten() for one in p.values()]).norm()))
            if stage["gradient_clip_norm"] is not None:
                for one in p.values():
                    one.grad *= min(1.0, stage["gradient_clip_norm"] / norms[-1])
            rates.append(stage["learning_rate"] * min(1.0, (step + 1) / 6))
            adam.param_groups[0]["lr"] = rates[-1]
            adam.step()
            p["W_dec"] /= p["W_dec"].norm(dim=1, keepdim=True)
    weights = {name: value.detach() for name, value in p.items()}
    weights["threshold"] = weights.pop("log_threshold").exp() / scale
    return weights | {name: weights[name] / scale for name in ("b_enc", "b_dec")}, norms, rates


def distance(one, two):
    return math.sqrt(sum(float((torch.as_tensor(one[name]) - two[name]).norm() ** 2) for name in two))


def test_a_training_with_the_authors_settings_equals_a_plain_loop(shards, tmp_path):
    expected, norms, rates = train_in_float64(shards, ARCHITECTURE, AUTHORS, seed=3)
    folder = train(shards, tmp_path / "d", tmp_path / "work", architecture=ARCHITECTURE, stage=AUTHORS)
    found = load_weights(folder)
    assert 4 < sum(norm > 0.72 for norm in norms) < 20
    for change in ({"gradient_clip_norm": None}, {"schedule": "cosine"}, {"sparsity_warmup": 0.0}):
        stage = {**AUTHORS, **change}
        other = load_weights(
            train(shards, tmp_path / "o", tmp_path / "work", architecture=ARCHITECTURE, stage=stage)
        )
        assert distance(other, expected) > 20 * distance(found, expected), change
    assert distance(found, expected) < 1e-5 * distance(expected, dict.fromkeys(expected, torch.tensor(0.0)))
    table = read_table(folder / "training.csv", TRAINING_LOG)
    assert table.learning_rate.tolist() == pytest.approx(rates)


def test_the_squared_error_is_the_fraction_times_the_variance(shards, tmp_path):
    """Summed over dimensions, averaged over tokens; the log still tells the fraction."""
    stage, topk = {**STAGE, "steps": 1, "snapshots": []}, {**TOPK, "reconstruction": "mse"}
    folder = train(shards, tmp_path / "d", tmp_path / "work", architecture=topk, stage=stage)
    row = read_table(folder / "training.csv", TRAINING_LOG).iloc[0]
    recipe, store = Recipe.from_params(topk, stage), ActivationStore(shards, 0)
    dictionary, scale = start(store, recipe, "random", derive_seed(3, "start"))
    x = next(store.batches(["text"], 128, derive_seed(3, "order"))).double() * scale
    error = sum(float(((one - dictionary.double()(one[None])[0]) ** 2).sum().detach()) for one in x) / len(x)
    variance = sum(float(((one - x.mean(dim=0)) ** 2).sum()) for one in x) / len(x)
    assert row.loss == pytest.approx(error, rel=1e-5)
    assert row.fvu == pytest.approx(error / variance, rel=1e-5)
    assert variance > 1.1 or variance < 0.9


def test_schedules_by_hand():
    cosine = Recipe.from_params(TOPK, {**STAGE, "steps": 10, "warmup": 0.11})
    half = [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert [cosine.rate_factor(i) for i in range(10)] == pytest.approx([1 / 3, 2 / 3, *half])
    constant = Recipe.from_params(TOPK, {**STAGE, "steps": 10, "warmup": 4.0, "schedule": "constant"})
    assert [constant.rate_factor(i) for i in range(10)] == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])
    at_once = Recipe.from_params(TOPK, {**STAGE, "steps": 3, "warmup": 0.0, "schedule": "constant"})
    assert [at_once.rate_factor(i) for i in range(3)] == [1.0, 1.0, 1.0]
    rising = Recipe.from_params(
        JUMPRELU | {"l0_coefficient": 2.0}, {**STAGE, "steps": 8, "sparsity_warmup": 4.0}
    )
    assert [rising.penalty_weight(i) for i in range(7)] == [0, 0.5, 1, 1.5, 2, 2, 2]
    assert Recipe.from_params(JUMPRELU, STAGE).penalty_weight(0) == 1.0


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(20, {1: 1, 5: 1, 50: 10, 100: 20}), (3, {1: 1, 5: 1, 50: 2, 100: 3}), (1, {1: 1, 5: 1, 50: 1, 100: 1})],
)
def test_snapshots_that_fall_on_one_step_are_all_kept(shards, tmp_path, steps, expected):
    stage = {**STAGE, "steps": steps, "snapshots": [1, 5, 50, 100]}
    folder = train(shards, tmp_path / "d", tmp_path / "work", stage=stage)
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == sorted(map(str, expected))
    weights, final = {}, load_weights(folder)
    for percent, step in expected.items():
        kept = folder / "snapshots" / str(percent)
        weights[percent] = load_dictionary(kept).W_dec
        metadata = load_config_metadata(kept)
        assert (metadata["percent"], metadata["step"]) == (percent, step)
    assert torch.equal(weights[1], weights[5])
    assert torch.equal(weights[100], torch.from_numpy(final["W_dec"]))
    assert torch.equal(weights[1], weights[100]) == (steps == 1)


def load_config_metadata(folder: Path) -> dict:
    return json.loads((folder / "cfg.json").read_text())["metadata"]


class Clock:
    """Stands for time: a checkpoint takes some seconds, a step one."""

    def __init__(self, monkeypatch, cost: float):
        self.now, self.cost, self.saves = 0.0, cost, []
        monkeypatch.setattr(callbacks.time, "monotonic", lambda: self.now)

    def save_checkpoint(self, path: Path) -> None:
        self.saves.append(self.now)
        self.now += self.cost
        Path(path).write_bytes(b"")

    def run(self, point: ResumePoint, first: bool = True) -> None:
        trainer = Mock(spec=pl.Trainer, is_global_zero=first, save_checkpoint=self.save_checkpoint)
        task = Mock(spec=DictionaryTask, device=torch.device("cpu"), worth_keeping=True)
        while self.now < 7200:
            self.now += 1
            point.on_train_batch_end(trainer, task, {}, None, 0)


@pytest.mark.parametrize(("cost", "pause"), [(0.1, 60), (1.2, 60), (16, 800)])
def test_checkpoints_take_a_fiftieth_of_the_time_at_most(monkeypatch, tmp_path, cost, pause):
    clock = Clock(monkeypatch, cost)
    clock.run(ResumePoint(tmp_path / "last.ckpt", "settings"))
    gaps = [two - one - cost for one, two in zip(clock.saves, clock.saves[1:])]
    assert clock.saves[0] == 60 and all(pause - 1e-6 <= gap < pause + 2 for gap in gaps)
    assert len(gaps) > 7200 / (pause + cost) - 3


def test_the_user_sets_the_pause_and_only_the_first_process_counts_it(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, 16)
    clock.run(ResumePoint(tmp_path / "last.ckpt", "settings", 30.0))
    assert clock.saves[:3] == [30, 76, 122]
    idle = Clock(monkeypatch, 16)
    idle.run(ResumePoint(tmp_path / "last.ckpt", "settings", 30.0), first=False)
    assert idle.saves == []


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_settings_of_a_checkpoint_are_read_without_its_weights(tmp_path):
    point = ResumePoint(tmp_path / "last.ckpt", "mine")
    torch.save({"vlmdiff_settings": "mine", "state": torch.ones(4, 2**20)}, point.path)
    before = bytes_read()
    assert point.usable() == point.path
    assert bytes_read() - before < 2**18 < point.path.stat().st_size / 50
    assert ResumePoint(point.path, "others").usable() is None


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999], ids=lambda kept: f"{kept:.1%}")
@pytest.mark.parametrize("tail", ["cut", "zeros"])
def test_a_torn_checkpoint_is_not_used(shards, tmp_path, caplog, kept, tail):
    point = ResumePoint(tmp_path / "last.ckpt", "mine")
    torch.save({"vlmdiff_settings": "mine", "state": torch.ones(256, 256)}, point.path)
    whole = point.path.read_bytes()
    torn = whole[: int(kept * len(whole))]
    point.path.write_bytes(torn if tail == "cut" else torn.ljust(len(whole), b"\0"))
    with caplog.at_level(logging.WARNING):
        assert point.usable() is None
    assert "cannot be read" in caplog.text and "training starts anew" in caplog.text


def test_a_resumed_training_goes_on_with_schedules_and_clipping(shards, tmp_path, monkeypatch):
    """The penalty's weight and the rates are functions of the step, which a checkpoint holds."""
    values = {"architecture": ARCHITECTURE, "stage": {**AUTHORS, "snapshots": [1, 2, 50]}}
    whole = content(train(shards, tmp_path / "whole", tmp_path / "work", **values))
    original = ResumePoint.save

    def save_then_fail(self, trainer):
        original(self, trainer)
        if trainer.global_step == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumePoint, "save", save_then_fail)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(shards, tmp_path / "cut", tmp_path / "work", checkpoint_every_s=0.0, **values)
    monkeypatch.setattr(ResumePoint, "save", original)
    assert (tmp_path / "work" / "last.ckpt").is_file() and not (tmp_path / "cut").exists()
    assert content(train(shards, tmp_path / "cut", tmp_path / "work", **values)) == whole

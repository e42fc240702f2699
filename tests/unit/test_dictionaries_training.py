"""Training: it learns, repeats, resumes bit for bit, and refuses what does not fit."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.files import load_dictionary, load_weights, save_dictionary
from vlmdiff.dictionaries.initial import estimate_scale, sample_tokens, start
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.schedules import learning_rate_factor
from vlmdiff.dictionaries.task import (
    DictionaryTask,
    ShuffledBatches,
)
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import TRAINING_LOG

TOPK = {
    "kind": "topk",
    "d_sae": 64,
    "k": 4,
    "bandwidth": 0.02,
    "l0_coefficient": 1.0,
    "subtract_decoder_bias": True,
}
JUMPRELU = {**TOPK, "kind": "jumprelu"}
STAGE = {
    "tokens": ["text"],
    "steps": 60,
    "batch_tokens": 128,
    "learning_rate": 5e-3,
    "warmup": 0.1,
    "snapshots": [25, 50, 100],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


@pytest.fixture
def train(shards, tmp_path):
    def run(name: str, initial="random", architecture=TOPK, **changes) -> Path:
        values = {"checkpoint_every_s": 1e9, "code": "", "seed": 3, "activations": shards, "stage": STAGE}
        values.update(changes)
        train_dictionary(
            initial=initial,
            layer=0,
            architecture=architecture,
            provenance={"model": "vlm", "dataset": "questions"},
            folder=tmp_path / name,
            checkpoints=tmp_path / "work",
            **values,
        )
        return tmp_path / name

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("architecture", [TOPK, JUMPRELU], ids=["topk", "jumprelu"])
def test_training_learns_sparse_directions(train, architecture):
    stage = {**STAGE, "steps": 400, "learning_rate": 1e-2}
    folder = train("base", architecture=architecture, stage=stage)
    table = read_table(folder / "training.csv", TRAINING_LOG)
    assert len(table) >= 50 and table.step.iloc[-1] == 400
    assert table.fvu.iloc[-1] < 0.35 * table.fvu.iloc[0]
    assert 2 < table.l0.iloc[-1] < 7
    norms = torch.from_numpy(load_weights(folder)["W_dec"]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(64), atol=1e-5, rtol=0)


def test_outputs_and_nothing_else(train, tmp_path):
    folder = train("base")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    pair = ["cfg.json", "sae_weights.safetensors"]
    expected = [*pair, "training.csv", *(f"snapshots/{p}/{n}" for p in (25, 50, 100) for n in pair)]
    assert names == sorted(expected)
    assert not (tmp_path / "work").exists()
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert metadata["model"] == "vlm" and metadata["step"] == 60 and metadata["tokens"] == ["text"]
    last, final = load_weights(folder / "snapshots/100"), load_weights(folder)
    assert all((last[name] == final[name]).all() for name in final)


def test_no_snapshots_still_leave_their_folder(train):
    folder = train("base", stage={**STAGE, "steps": 3, "snapshots": []})
    assert (folder / "snapshots").is_dir() and not list((folder / "snapshots").iterdir())


def test_saved_dictionary_acts_on_raw_residuals(train, shards):
    folder = train("base", stage={**STAGE, "steps": 200})
    x = torch.cat([chunk.values for chunk in ActivationStore(shards, 0).chunks(("text",))])
    fvu = float(fraction_unexplained(x, load_dictionary(folder)(x)))
    assert fvu == pytest.approx(read_table(folder / "training.csv", TRAINING_LOG).fvu.iloc[-1], rel=0.3)


@pytest.mark.parametrize("architecture", [TOPK, JUMPRELU], ids=["topk", "jumprelu"])
def test_a_frozen_decoder_stays_while_the_encoder_learns(train, architecture):
    stage = {**STAGE, "steps": 100, "snapshots": [1], "decoder": "frozen"}
    folder = train("frozen", architecture=architecture, stage=stage)
    first, last = load_weights(folder / "snapshots/1"), load_weights(folder)
    assert (first["W_dec"] == last["W_dec"]).all()
    assert not np.allclose(first["W_enc"], last["W_enc"], rtol=0.05)
    table = read_table(folder / "training.csv", TRAINING_LOG)
    free = train("free", architecture=architecture, stage={**stage, "decoder": "trained"})
    trained = read_table(free / "training.csv", TRAINING_LOG)
    assert trained.fvu.iloc[-1] < table.fvu.iloc[-1] < 0.9 * table.fvu.iloc[0]


def test_repeating_gives_the_same_bytes(train):
    torch.manual_seed(1)
    first = content(train("one"))
    torch.manual_seed(2)
    assert content(train("two")) == first
    assert content(train("three", seed=4)) != first


class PowerCutError(Exception):
    """Stands for anything that ends a job."""


@pytest.fixture
def cut_at(monkeypatch):
    """Return a function that makes the next training fail before a step, with a checkpoint of every step."""
    original = ShuffledBatches.__iter__

    def set_cut(step: int | None) -> None:
        def batches(self):
            for number, batch in enumerate(original(self), self.start_step):
                if number == step:
                    raise PowerCutError
                yield batch

        monkeypatch.setattr(ShuffledBatches, "__iter__", batches)

    return set_cut


@pytest.mark.parametrize("architecture", [TOPK, JUMPRELU], ids=["topk", "jumprelu"])
@pytest.mark.parametrize(("step", "published"), [(7, False), (37, False), (37, True)])
def test_resumed_equals_uninterrupted(train, cut_at, architecture, step, published, caplog, tmp_path):
    initial = saved_jumprelu(tmp_path / "scope", torch.zeros(64)) if published else "random"
    whole = content(train("whole", initial, architecture))
    cut_at(step)
    with pytest.raises(PowerCutError):
        train("cut", initial, architecture, checkpoint_every_s=0.0)
    assert (tmp_path / "work/last.ckpt").is_file()
    assert not (tmp_path / "cut").exists()
    cut_at(None)
    torch.manual_seed(99)
    with caplog.at_level(logging.INFO):
        resumed = train("cut", initial, architecture)
    assert "resuming from" in caplog.text
    assert content(resumed) == whole


def test_a_killed_process_is_resumed(train, shards, tmp_path, caplog):
    whole = content(train("whole"))
    code = f"""
import time
from vlmdiff.dictionaries.task import DictionaryTask
from vlmdiff.dictionaries.training import train_dictionary
step = DictionaryTask.training_step
DictionaryTask.training_step = lambda self, *a: (time.sleep(0.2 * (self.global_step > 20)), step(self, *a))[1]
train_dictionary({[str(p) for p in shards]!r}, "random", 0, 3, {TOPK!r}, {STAGE!r},
    {{"model": "vlm", "dataset": "questions"}}, {str(tmp_path / "killed")!r}, {str(tmp_path / "work")!r},
    checkpoint_every_s=0.0)
"""
    scripts = next(path for path in sys.path if path.endswith("workflow_scripts"))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": scripts})
    point, deadline = tmp_path / "work/last.ckpt", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not reached(point, 20):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with caplog.at_level(logging.INFO):
        resumed = train("killed")
    assert "resuming from" in caplog.text
    assert content(resumed) == whole


def reached(point: Path, step: int) -> bool:
    return point.is_file() and torch.load(point, weights_only=True)["global_step"] >= step


@pytest.mark.parametrize(
    "changes",
    [{"seed": 4}, {"code": "other"}, {"stage": {**STAGE, "learning_rate": 4e-3}}, {"activations": "others"}],
    ids=lambda changes: next(iter(changes)),
)
def test_checkpoint_of_other_settings_is_not_used(train, cut_at, changes, caplog, tmp_path):
    cut_at(20)
    with pytest.raises(PowerCutError):
        train("cut", checkpoint_every_s=0.0)
    cut_at(None)
    if "activations" in changes:
        changes = {"activations": write_sparse_shards(tmp_path / "others", seed=5, scale=30.0)}
    with caplog.at_level(logging.INFO):
        started = train("cut", **changes)
    assert "made with other settings or inputs; training starts anew" in caplog.text
    assert content(started) == content(train("fresh", **changes))


def test_damaged_checkpoint_is_not_used(train, tmp_path, caplog):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/last.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    folder = train("base")
    assert "cannot be read" in caplog.text
    assert content(folder) == content(train("fresh"))


@pytest.mark.parametrize("architecture", [TOPK, JUMPRELU], ids=["topk", "jumprelu"])
def test_warm_start_keeps_indices_and_scale(train, architecture):
    base = train("base", architecture=architecture)
    still = {**STAGE, "steps": 1, "learning_rate": 1e-12, "snapshots": []}
    adapted = train("adapted", initial=base, architecture=architecture, stage=still, seed=9)
    before, after = load_weights(base), load_weights(adapted)
    for name in before:
        torch.testing.assert_close(
            torch.from_numpy(after[name]), torch.from_numpy(before[name]), atol=1e-5, rtol=1e-5
        )
    scale = [json.loads((f / "cfg.json").read_text())["metadata"]["input_scale"] for f in (base, adapted)]
    assert scale[0] == scale[1] and math.log2(scale[0]).is_integer()


def test_warm_start_of_another_shape_is_refused(train):
    base = train("base", stage={**STAGE, "steps": 1, "snapshots": []})
    with pytest.raises(DictionaryError, match=r"found .*= \(16, 64\), expected \(16, 128\)"):
        train("adapted", initial=base, architecture={**TOPK, "d_sae": 128})


def saved_jumprelu(folder: Path, thresholds: torch.Tensor) -> Path:
    """Save a JumpReLU dictionary as an imported one is: without b_dec on the input."""
    dictionary = JumpReLUDictionary(16, 64, subtract_decoder_bias=False)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(64, 16, generator=generator))
        dictionary.normalise_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec.T)
        dictionary.log_threshold.copy_(thresholds.log())
    save_dictionary(dictionary, folder, {"dictionary": "published", "input_scale": 2.0**-6})
    return folder


def test_warm_start_from_jumprelu_to_topk_drops_the_thresholds(train, shards, tmp_path):
    """What the paper does with Llama Scope; b_dec stays where the published dictionary has it."""
    folder = saved_jumprelu(tmp_path / "scope", torch.full((64,), 20.0))
    store, recipe = ActivationStore(shards, 0), Recipe.from_params(TOPK, STAGE)
    assert recipe.subtract_decoder_bias
    dictionary, scale = start(store, recipe, folder, 5)
    assert dictionary.kind == "topk" and dictionary.k == 4 and not dictionary.subtract_decoder_bias
    assert scale == 2.0**-6
    initial, x = load_dictionary(folder), sample_tokens(store, recipe, 5)[:50]
    largest = torch.topk(initial.pre_activations(x), 4, dim=1)
    expected = torch.zeros(50, 64).scatter(1, largest.indices, largest.values.relu())
    torch.testing.assert_close(dictionary.encode(x * scale) / scale, expected, rtol=1e-4, atol=1e-3)
    trained = load_dictionary(train("adapted", initial=folder))
    assert trained.kind == "topk" and not trained.subtract_decoder_bias


def test_warm_start_from_topk_to_jumprelu_finds_thresholds(train, shards):
    base = train("base", stage={**STAGE, "steps": 5, "snapshots": []})
    store, recipe = ActivationStore(shards, 0), Recipe.from_params(JUMPRELU, STAGE)
    dictionary, scale = start(store, recipe, base, 5)
    assert dictionary.kind == "jumprelu" and dictionary.bandwidth == 0.02
    x = sample_tokens(store, recipe, 5) * scale
    assert float(dictionary.reconstruct(x).l0) == pytest.approx(4, abs=0.5)


def test_thresholds_of_zero_can_be_trained(train, shards, tmp_path, caplog):
    thresholds = torch.full((64,), 20.0)
    thresholds[:10] = 0
    folder = saved_jumprelu(tmp_path / "scope", thresholds)
    store, recipe = ActivationStore(shards, 0), Recipe.from_params(JUMPRELU, STAGE)
    dictionary, scale = start(store, recipe, folder, 5)
    assert "10 thresholds are not positive" in caplog.text
    torch.testing.assert_close(dictionary.threshold[:10], torch.full((10,), 1e-3))
    torch.testing.assert_close(dictionary.threshold[10:], torch.full((54,), 20.0 * scale))
    relu = saved_jumprelu(tmp_path / "relu", torch.zeros(64))
    started, scale = start(store, recipe, relu, 5)
    l0 = float(started.reconstruct(sample_tokens(store, recipe, 5) * scale).l0)
    assert l0 == pytest.approx(4, abs=0.5)
    before, after = started.threshold, load_dictionary(train("a", relu, JUMPRELU)).threshold * scale
    assert torch.isfinite(after).all() and not torch.allclose(after, before, rtol=1e-3)


def test_warm_start_without_unit_rows_is_refused(train, tmp_path):
    save_dictionary(TopKDictionary(16, 64, 4), tmp_path / "zero", {})
    with pytest.raises(DictionaryError, match="norms from 0 to 0, expected 1"):
        train("adapted", initial=tmp_path / "zero")


def test_divergence_is_an_error_that_says_what_to_do(train):
    with pytest.raises(ArithmeticError, match="lower learning_rate"):
        train("base", stage={**STAGE, "learning_rate": 1e30})


def test_training_is_quiet(train, caplog, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        train("base")
    output = capfd.readouterr()
    assert "GPU" not in caplog.text + output.err + output.out
    assert "step 60/60" in caplog.text
    assert not (tmp_path / "lightning_logs").exists() and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("architecture", [TOPK, JUMPRELU], ids=["topk", "jumprelu"])
def test_random_start(shards, architecture):
    store, recipe = ActivationStore(shards, 0), Recipe.from_params(architecture, STAGE)
    dictionary, scale = start(store, recipe, "random", 5)
    x = sample_tokens(store, recipe, 5) * scale
    factor = float(dictionary.W_enc[0, 0] / dictionary.W_dec[0, 0])
    torch.testing.assert_close(dictionary.W_enc, factor * dictionary.W_dec.T)
    errors = []
    for change in (0.95, 1, 1.05):
        with torch.no_grad():
            z = dictionary.encode(x[:2048]) * change
            errors.append(float((x[:2048] - dictionary.decode(z)).square().sum()))
    assert (errors[1] < min(errors[0], errors[2])) if architecture is TOPK else factor == 1
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(64))
    torch.testing.assert_close(dictionary.b_dec, x.mean(dim=0))
    spread = float((x - x.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    assert 2**-0.51 < spread < 2**0.51
    assert float(dictionary.reconstruct(x).l0) == pytest.approx(4, abs=0.5)


def test_constant_activations_are_refused():
    with pytest.raises(DictionaryError, match="spread of 0"):
        estimate_scale(torch.ones(10, 4))


def test_fvu_against_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    x, x_hat = torch.randn(9, 5, generator=generator) + 3, torch.randn(9, 5, generator=generator)
    mean = [sum(float(x[n, i]) for n in range(9)) / 9 for i in range(5)]
    error = sum(float(x[n, i] - x_hat[n, i]) ** 2 for n in range(9) for i in range(5))
    variance = sum((float(x[n, i]) - mean[i]) ** 2 for n in range(9) for i in range(5))
    assert float(fraction_unexplained(x, x_hat)) == pytest.approx(error / variance, rel=1e-5)


def test_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11) and factors[10] == 1.0
    assert factors[:11] == sorted(factors[:11]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0)
    assert learning_rate_factor(0, 100, 0.0) == 1.0


def test_a_long_training_notes_every_hundredth_step_the_first_and_the_last(train):
    stage = {**STAGE, "steps": 251, "snapshots": []}
    table = read_table(train("long", stage=stage) / "training.csv", TRAINING_LOG)
    assert table["step"].tolist() == [1, *range(2, 251, 2), 251]
    recipe = Recipe.from_params(TOPK, stage)
    rates = [recipe.learning_rate * recipe.rate_factor(step - 1) for step in table["step"]]
    assert table["learning_rate"].tolist() == pytest.approx(rates)


@pytest.mark.parametrize(
    ("architecture", "betas"), [(TOPK, (0.9, 0.999)), (JUMPRELU, (0.0, 0.999))], ids=["topk", "jumprelu"]
)
def test_jumprelu_alone_trains_without_momentum(shards, architecture, betas):
    recipe = Recipe.from_params(architecture, STAGE)
    dictionary, scale = start(ActivationStore(shards, 0), recipe, "random", 5)
    found = DictionaryTask(dictionary, recipe, scale).configure_optimizers()
    assert all(group["betas"] == betas for group in found["optimizer"].param_groups)


def test_dead_features_are_those_silent_for_long(shards):
    store, recipe = ActivationStore(shards, 0), Recipe.from_params(TOPK, STAGE)
    dictionary, scale = start(store, recipe, "random", 5)
    with torch.no_grad():
        dictionary.b_enc[:3] = -1e6
    task = DictionaryTask(dictionary, recipe, scale)
    task.silent_tokens[:] = recipe.dead_after_tokens - 128
    batch = next(store.batches(("text",), 128, 0))
    task.training_step(batch, 0)
    silent = int((dictionary.reconstruct(batch * scale).firings == 0).sum())
    assert silent >= 3 and int(task.dead().sum()) == silent
    assert "silent_tokens" in task.state_dict()


def test_snapshots_fall_on_the_step_that_completes_a_part():
    recipe = Recipe.from_params(TOPK, {**STAGE, "steps": 10, "snapshots": [1, 25, 50, 100]})
    assert recipe.snapshot_steps() == {1: [1], 3: [25], 5: [50], 10: [100]}

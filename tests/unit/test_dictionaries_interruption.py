"""Trainings that are killed many times, or asked to stop, end with the bytes of an uninterrupted one."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from small_trainings import JUMPRELU, STAGE, TOPK, Trainers, content, train
from sparse_activations import write_sparse_shards

from vlmdiff.dictionaries import training
from vlmdiff.dictionaries.interruption import cluster_environment

# Long enough to be killed many times; a checkpoint a step, or nearly.
LONG = {**STAGE, "steps": 1200, "snapshots": [1, 25, 50, 75, 99, 100]}
OFTEN = {"stage": LONG, "checkpoint_every_s": 0.02}
# For each kind: activations, settings, kills; a stream runs its model for the scale of values at every start.
KINDS = {
    "topk": ("shards", {"architecture": TOPK}, 15),
    "jumprelu": ("shards", {"architecture": JUMPRELU}, 15),
    "stream": ("stream", {"architecture": TOPK, "stage": {**LONG, "steps": 100}}, 3),
}


@pytest.fixture(scope="module")
def trainers():
    return Trainers()


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiny_vlm_path, tiny_dataset):
    return {
        "shards": write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0),
        "stream": {"model": tiny_vlm_path, "samples": tiny_dataset / "samples.jsonl"},
    }


@pytest.fixture(
    params=["topk", *(pytest.param(one, marks=pytest.mark.long) for one in ("jumprelu", "stream"))]
)
def kind(request, sources):
    """Return activations, settings and kills of one kind of training."""
    source, values, kills = KINDS[request.param]
    return sources[source], {**OFTEN, **values}, kills


def wait_for(point: Path, process, newer_than: int = 0) -> None:
    """Wait until there is a checkpoint that this process wrote, or the process ended."""
    deadline = time.monotonic() + 600
    while process.is_alive() and time.monotonic() < deadline:
        if point.is_file() and point.stat().st_mtime_ns > newer_than:
            return
        time.sleep(0.002)
    assert not process.is_alive(), "no checkpoint within ten minutes"


def step_of(point: Path) -> int:
    return torch.load(point, weights_only=True)["global_step"]


@pytest.mark.slow
@pytest.mark.long
def test_many_kills_change_no_byte(kind, trainers, tmp_path):
    activations, values, kills = kind
    whole = content(train(activations, tmp_path / "whole", tmp_path / "whole_work", **values))
    point, log, rng = tmp_path / "work" / "last.ckpt", tmp_path / "log", random.Random(0)
    steps = []
    for _ in range(kills):
        before = point.stat().st_mtime_ns if point.is_file() else 0
        process = trainers.start(log, activations, tmp_path / "cut", tmp_path / "work", **values)
        wait_for(point, process, before)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        steps.append(step_of(point))
    assert steps == sorted(steps) and len(set(steps)) > kills // 2 and steps[-1] < values["stage"]["steps"]
    process = trainers.start(log, activations, tmp_path / "cut", tmp_path / "work", **values)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert content(tmp_path / "cut") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "log", "whole"]


@pytest.mark.long
def test_sigterm_saves_the_step_that_runs_and_says_so(kind, trainers, tmp_path):
    activations, values, _ = kind
    whole = content(train(activations, tmp_path / "whole", tmp_path / "whole_work", **values))
    values = {**values, "checkpoint_every_s": 1e9}
    point, log, steps = tmp_path / "work" / "last.ckpt", tmp_path / "log", values["stage"]["steps"]
    process = trainers.start(log, activations, tmp_path / "cut", tmp_path / "work", **values)
    first = tmp_path / "work" / "snapshots" / "1"
    wait_for(first / "cfg.json", process)
    assert not point.exists()
    process.terminate()
    process.join()
    assert process.exitcode == 1, log.read_text()
    last = log.read_text().splitlines()[-1]
    told = re.search(
        rf"TrainingStoppedError: stopped by SIGTERM after step (\d+) of {steps}; the state", last
    )
    assert told and "the same command goes on from there" in last
    assert 0 < step_of(point) == int(told[1]) < steps
    assert not (tmp_path / "cut").exists()
    assert content(train(activations, tmp_path / "cut", tmp_path / "work", **values)) == whole


def terminate_at(monkeypatch, step: int) -> None:
    """Let this process get a SIGTERM while it takes a step."""
    original = training.DictionaryTask.training_step

    def training_step(self, *arguments):
        if self.global_step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(training.DictionaryTask, "training_step", training_step)


@pytest.mark.parametrize("step", [1, 37, 59, 60])
def test_sigterm_at_any_step(sources, tmp_path, monkeypatch, caplog, step):
    """The last step too: the state is saved, and nothing is left to do but to write the outputs."""
    whole = content(train(sources["shards"], tmp_path / "whole", tmp_path / "work"))
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        terminate_at(patch, step)
        with pytest.raises(training.TrainingStoppedError, match=f"after step {step} of 60"):
            train(sources["shards"], tmp_path / "cut", tmp_path / "work")
    assert signal.getsignal(signal.SIGTERM) == before
    assert step_of(tmp_path / "work" / "last.ckpt") == step
    with caplog.at_level(logging.INFO):
        resumed = content(train(sources["shards"], tmp_path / "cut", tmp_path / "work"))
    assert "resuming from" in caplog.text
    assert resumed == whole


@pytest.mark.long
@pytest.mark.slow
def test_a_training_that_an_interrupted_run_left_saves_its_state_and_gives_way(sources, trainers, tmp_path):
    values = {**OFTEN, "checkpoint_every_s": 1e9, "stage": {**LONG, "steps": 4000}}
    arguments = (sources["shards"], tmp_path / "cut", tmp_path / "work")
    whole = content(train(sources["shards"], tmp_path / "whole", tmp_path / "whole_work", **values))
    orphan = trainers.start(tmp_path / "orphan_log", *arguments, **values)
    wait_for(tmp_path / "work" / "snapshots" / "1" / "cfg.json", orphan)
    successor = trainers.start(tmp_path / "log", *arguments, **values)
    orphan.join()
    successor.join()
    assert orphan.exitcode == 1 and "stopped by SIGTERM" in (tmp_path / "orphan_log").read_text()
    log = (tmp_path / "log").read_text()
    assert successor.exitcode == 0 and f"process {orphan.pid} of an interrupted run" in log, log
    assert "resuming from" in log
    assert content(tmp_path / "cut") == whole


class PowerCutError(Exception):
    """Stands for anything that ends a job."""


@pytest.mark.parametrize("done", ["save_dictionary", "write_table", "publish_snapshots", "rmtree"])
def test_a_kill_after_the_last_step_loses_nothing(sources, tmp_path, monkeypatch, done):
    """Outputs are written again, from the last checkpoint or anew, also if its folder is half deleted."""
    whole = content(train(sources["shards"], tmp_path / "whole", tmp_path / "work"))
    place = training.shutil if done == "rmtree" else training
    original, calls = getattr(place, done), []

    def cut(*arguments, **options):
        calls.append(done)
        result = original(*arguments, **options)
        # Before the first step a folder of other settings is deleted too.
        if done != "rmtree" or (tmp_path / "cut").exists():
            raise PowerCutError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place, done, cut)
        with pytest.raises(PowerCutError):
            train(sources["shards"], tmp_path / "cut", tmp_path / "work", checkpoint_every_s=0.0)
    assert content(train(sources["shards"], tmp_path / "cut", tmp_path / "work")) == whole


def test_a_checkpoint_never_outlives_its_snapshots(sources, tmp_path, monkeypatch):
    """Killed while the folder of a finished training is deleted: the checkpoint is the first to go."""

    def cut(folder, **_):
        assert not (folder / "last.ckpt").exists()
        raise PowerCutError

    train(sources["shards"], tmp_path / "whole", tmp_path / "work")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "last.ckpt").touch()
    monkeypatch.setattr(shutil, "rmtree", cut)
    with pytest.raises(PowerCutError):
        training.forget(training.ResumePoint(tmp_path / "work" / "last.ckpt", "", 0.0))


PARTS = {
    "weights": lambda state: state["state_dict"]["dictionary.W_enc"].mul_(1.01),
    "first moments": lambda state: moments(state, "exp_avg"),
    "second moments": lambda state: moments(state, "exp_avg_sq"),
    "step of the optimiser": lambda state: steps(state),
    "schedule": lambda state: state["lr_schedulers"][0].update(last_epoch=3),
    "position in the data": lambda state: position(state),
    "counters": lambda state: state["state_dict"]["silent_tokens"].fill_(10**6),
    "log rows": lambda state: callback(state, "TrainingLog")["rows"].pop(),
}


def moments(state: dict, name: str) -> None:
    for one in state["optimizer_states"][0]["state"].values():
        one[name].mul_(2)


def steps(state: dict) -> None:
    for one in state["optimizer_states"][0]["state"].values():
        one["step"].add_(5)


def position(state: dict) -> None:
    loop = state["loops"]["fit_loop"]
    loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"] -= 1


def callback(state: dict, name: str) -> dict:
    return next(value for key, value in state["callbacks"].items() if name in key)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_a_checkpoint_is_used(sources, tmp_path, monkeypatch, part):
    """What resumes bit for bit from a checkpoint does not do so from one with any part altered."""
    whole = content(train(sources["shards"], tmp_path / "whole", tmp_path / "work"))
    with monkeypatch.context() as patch:
        terminate_at(patch, 30)
        with pytest.raises(training.TrainingStoppedError):
            train(sources["shards"], tmp_path / "cut", tmp_path / "work")
    point = tmp_path / "work" / "last.ckpt"
    state = torch.load(point, weights_only=True)
    PARTS[part](state)
    torch.save(state, point)
    torch.manual_seed(99)
    assert content(train(sources["shards"], tmp_path / "cut", tmp_path / "work")) != whole


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ({}, LightningEnvironment),
        ({"SLURM_NTASKS": "1"}, SLURMEnvironment),
        ({"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"}, SLURMEnvironment),
        ({"SLURM_NTASKS": "4"}, LightningEnvironment),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, LightningEnvironment),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}, LightningEnvironment),
    ],
)
def test_one_device_trains_within_slurm_whatever_its_tasks(sources, tmp_path, monkeypatch, tasks, expected):
    stage = {**STAGE, "steps": 3, "snapshots": []}
    whole = content(train(sources["shards"], tmp_path / "whole", tmp_path / "work", stage=stage))
    for name, value in {**SLURM, **tasks}.items():
        monkeypatch.setenv(name, value)
    environment = cluster_environment()
    assert type(environment) is expected and not getattr(environment, "auto_requeue", False)
    handlers = signal.getsignal(signal.SIGUSR1)
    assert content(train(sources["shards"], tmp_path / "cut", tmp_path / "work", stage=stage)) == whole
    assert signal.getsignal(signal.SIGUSR1) == handlers


def test_nothing_is_written_to_the_systems_temporary_folder(sources, tmp_path, monkeypatch):
    """A killed process would leave a checkpoint of gigabytes there."""
    made = []
    original = training.PlainCheckpoints.save_checkpoint

    def save(self, checkpoint, path, storage_options=None):
        made.append(Path(path))
        original(self, checkpoint, path, storage_options)

    monkeypatch.setattr(training.PlainCheckpoints, "save_checkpoint", save)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    stage = {**STAGE, "steps": 3, "snapshots": []}
    train(sources["shards"], tmp_path / "whole", tmp_path / "work", stage=stage, checkpoint_every_s=0.0)
    assert len(made) == 3 and {path.parents[1] for path in made} == {tmp_path / "work"}

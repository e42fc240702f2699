from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file
from small_trainings import JUMPRELU, STAGE, TOPK, content, train
from sparse_activations import write_sparse_shards

from vlmdiff.dictionaries.launch import TrainingFailedError, train_in_processes

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"
ALONE = {"devices": 1}
TWO = {**STAGE, "devices": 2, "nodes": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


def arguments(shards: list[Path], folder: Path, **values) -> dict:
    return {
        "activations": shards,
        "initial": "random",
        "layer": 0,
        "seed": 3,
        "architecture": TOPK,
        "stage": TWO,
        "provenance": {"model": "vlm", "dataset": "questions"},
        "folder": folder / "dictionary",
        "checkpoints": folder / "work",
        "checkpoint_every_s": 1e9,
        **values,
    }


def run_logged(log: Path, settings: dict) -> subprocess.Popen:
    """Start the processes from a process of their own, as a job does."""
    code = (
        "import json, logging, sys\n"
        "from vlmdiff.dictionaries.launch import train_in_processes\n"
        "logging.basicConfig(filename=sys.argv[2], level=logging.INFO)\n"
        "train_in_processes(json.loads(sys.argv[1]), threads=1)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(settings, default=str), str(log)],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(point: Path, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not point.is_file():
        assert child.poll() is None and time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.01)


CLIPPED = {"gradient_clip_norm": 0.2, "schedule": "constant"}
PENALISED = {**CLIPPED, "sparsity_warmup": 6.0}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        (TOPK, CLIPPED),
        pytest.param(JUMPRELU, {}, marks=pytest.mark.long),
        pytest.param({**JUMPRELU, "reconstruction": "mse"}, PENALISED, marks=pytest.mark.long),
    ],
    ids=["topk", "jumprelu", "jumprelu mse"],
)
def test_two_processes_take_the_steps_of_one(shards, tmp_path, architecture, changes):
    few = {**TWO, "steps": 12, **changes}
    one = train(shards, tmp_path / "one", tmp_path / "work", architecture=architecture, stage=few | ALONE)
    train_in_processes(arguments(shards, tmp_path, architecture=architecture, stage=few), threads=1)
    two = tmp_path / "dictionary"
    assert content(two).keys() == content(one).keys()
    weights, expected = (load_file(folder / "sae_weights.safetensors") for folder in (two, one))
    for name, values in weights.items():
        assert abs(values - expected[name]).max() < 1e-4 * abs(expected[name]).max(), name
    rows, wanted = (pd.read_csv(folder / "training.csv") for folder in (two, one))
    pd.testing.assert_frame_equal(rows, wanted, rtol=1e-4)
    # Some features are dead in the end, and take part.
    assert (rows.auxiliary.iloc[-1] > 0) == (architecture is TOPK)
    assert not (tmp_path / "work").exists() and not (tmp_path / "work.json").exists()


@pytest.mark.long
def test_a_stopped_training_of_two_processes_goes_on_where_it_was(shards, tmp_path):
    stage = {**TWO, "steps": 240, "snapshots": [50]}
    train_in_processes(arguments(shards, tmp_path / "whole", stage=stage), threads=1)
    settings = arguments(shards, tmp_path, stage=stage, checkpoint_every_s=0.05)
    child = run_logged(tmp_path / "log", settings)
    wait_for_checkpoint(tmp_path / "work" / "last.ckpt", child)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 1 and "TrainingStoppedError: stopped by SIGTERM after step" in said
    assert not (tmp_path / "work.json").exists() and not (tmp_path / "dictionary").exists()
    train_in_processes(settings, threads=1)
    assert content(tmp_path / "dictionary") == content(tmp_path / "whole" / "dictionary")


@pytest.mark.long
def test_the_failure_of_a_process_is_the_trainings(shards, tmp_path):
    settings = arguments(shards, tmp_path, stage={**TWO, "learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(TrainingFailedError, match="DivergedError: layer 0, step .* lower learning_rate"):
        train_in_processes(settings, threads=1)
    assert not (tmp_path / "work.json").exists() and not (tmp_path / "dictionary").exists()


def test_several_nodes_need_slurm(shards, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(TrainingFailedError, match="nodes: found 2, but this is not a job of Slurm"):
        train_in_processes(arguments(shards, tmp_path, stage={**TWO, "nodes": 2}), threads=1)

"""Whole trainings by Lightning on the device: two runs agree, a stopped one ends as an uninterrupted one."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from outcomes import Row, Setting
from safetensors.torch import load_file
from small_trainings import JUMPRELU, TOPK, train
from sparse_activations import write_sparse_shards

from vlmdiff.dictionaries import training

NAME = "trainings"
STOP_AFTER = 25


def rows(setting: Setting) -> list[Row]:
    """Train each kind three times from the same shards."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write_sparse_shards(folder / "shards", scale=30.0)
        for kind, architecture in (("topk", TOPK), ("jumprelu", JUMPRELU)):
            values = {"architecture": architecture}
            first = train(shards, folder / kind / "first", folder / "work_first", **values)
            second = train(shards, folder / kind / "second", folder / "work_second", **values)
            stopped = folder / kind / "stopped"
            with terminated_at(STOP_AFTER), contextlib.suppress(training.TrainingStoppedError):
                train(shards, stopped, folder / "work_stopped", **values)
            was_stopped = not stopped.exists()
            train(shards, stopped, folder / "work_stopped", **values)
            found.append(agreement(kind, "two runs differ by", first, second))
            found.append(Row(NAME, kind, "SIGTERM stopped it", holds=was_stopped))
            found.append(agreement(kind, "resumed and uninterrupted differ by", first, stopped))
            found.append(Row(NAME, kind, "two runs are equal bit for bit", float(same(first, second))))
    return found


@contextlib.contextmanager
def terminated_at(step: int) -> Iterator[None]:
    """Let this process get a SIGTERM while it takes a step."""
    original, taken = training.DictionaryTask.training_step, []

    def training_step(task, *arguments):
        taken.append(None)
        if len(taken) == step:
            signal.raise_signal(signal.SIGTERM)
        return original(task, *arguments)

    training.DictionaryTask.training_step = training_step
    try:
        yield
    finally:
        training.DictionaryTask.training_step = original


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a trained dictionary."""
    return load_file(folder / "sae_weights.safetensors")


def same(one: Path, two: Path) -> bool:
    """Tell whether two dictionaries have the same bits."""
    first, second = weights(one), weights(two)
    return all(torch.equal(first[name], second[name]) for name in first)


def agreement(size: str, what: str, one: Path, two: Path) -> Row:
    """Return the largest difference of weights; sums of a device may come in another order."""
    first, second = weights(one), weights(two)
    largest = max(float((first[name] - second[name]).abs().max() / first[name].abs().max()) for name in first)
    return Row(NAME, size, what, largest, "at most 0.001 of the largest weight", largest <= 1e-3)

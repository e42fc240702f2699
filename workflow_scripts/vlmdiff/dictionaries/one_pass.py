"""Trainings of several layers: one after another from shards, or from one pass of a model, as many as fit.

A layer that fails does not stop the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vlmdiff.config.memory import at_once, cut
from vlmdiff.dictionaries.interruption import TrainingStoppedError
from vlmdiff.dictionaries.launch import train_in_processes
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.dictionaries.turns import Turns, take_turns
from vlmdiff.extraction.stream import ActivationStream, ModelPasses

log = logging.getLogger(__name__)


def train_in_passes(
    passes: ModelPasses, trainings: Sequence[Mapping[str, Any]], memory_bytes: float | None = None
) -> None:
    """Train a dictionary at several layers, straight from the model, in as few passes of it as memory allows.

    Each result is the same, bit for bit on a CPU, as if its layer were trained alone.

    Args:
        passes: the model and what it is shown.
        trainings: arguments of `train_dictionary`, activations aside, for each layer.
        memory_bytes: what dictionaries may take on a CPU; None: any.

    Raises:
        TrainingStoppedError: the process got SIGTERM; the states of all layers are saved.
        Exception: of the first layer that failed, after the others have finished.
    """
    by_layer = {one["layer"]: one for one in trainings}
    groups = cut(list(by_layer), layers_that_fit(passes, trainings[0]["architecture"], memory_bytes))
    log.info(
        "%d layers in %d passes of the model over its data, at most %d at once",
        *(len(by_layer), len(groups), len(groups[0])),
    )
    stopping, failed = threading.Event(), dict[int, BaseException]()
    for group in groups:
        if not stopping.is_set():
            failed |= train_group(passes, [by_layer[layer] for layer in group], stopping)
    raise_first(failed)


def train_from_shards(
    shards: Sequence[str | Path], trainings: Sequence[Mapping[str, Any]], threads: int
) -> None:
    """Train a dictionary at several layers from their shards, each in as many processes as its stage says.

    Args:
        shards: activations of a model and data set.
        trainings: as for `train_in_passes`.
        threads: of each of several processes.

    Raises:
        TrainingStoppedError: the process got SIGTERM; the state of the layer is saved.
        Exception: of the first layer that failed, after the others have finished.
    """
    failed = dict[int, BaseException]()
    for one in trainings:
        try:
            if one["stage"]["devices"] * one["stage"]["nodes"] > 1:
                train_in_processes({"activations": shards, **one}, threads)
            else:
                train_dictionary(shards, **one)
        except TrainingStoppedError:
            raise
        except Exception as error:
            failed[one["layer"]] = error
    raise_first(failed)


def raise_first(failed: Mapping[int, BaseException]) -> None:
    """Tell of all layers that failed, and raise the first one's error; one that stopped counts last."""
    for layer, error in failed.items():
        log.error("layer %d: %s", layer, error)
    for error in sorted(failed.values(), key=lambda one: isinstance(one, TrainingStoppedError)):
        raise error


def train_group(
    passes: ModelPasses, trainings: Sequence[Mapping[str, Any]], stopping: threading.Event
) -> dict[int, BaseException]:
    """Train some layers in one pass of the model; return what stopped them, by layer."""

    def train(one: Mapping[str, Any], turns: Turns) -> None:
        stream = ActivationStream(passes, one["layer"], get=turns.get)
        try:
            train_dictionary(stream, **one, stopping=stopping)
        except SIGTERMException:
            raise TrainingStoppedError("stopped by SIGTERM before the first step") from None

    return take_turns({one["layer"]: partial(train, one) for one in trainings}, stopping)


def layers_that_fit(passes: ModelPasses, architecture: Mapping[str, Any], memory_bytes: float | None) -> int:
    """Return how many dictionaries fit into free memory, with their optimisers; at least one."""
    if torch.cuda.is_available():
        memory_bytes = torch.cuda.mem_get_info()[0]
    if memory_bytes is None:
        return len(passes.subject.blocks)
    return at_once(memory_bytes, passes.subject.d_model, architecture["d_sae"])

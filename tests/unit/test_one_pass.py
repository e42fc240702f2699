"""Layers trained together equal those trained alone; one pass of the model serves all; any may stop."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from small_trainings import STAGE, TOPK, content
from sparse_activations import write_sparse_shards

from vlmdiff.config.memory import SHARE, training_bytes
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries import initial
from vlmdiff.dictionaries.health import TrainingDivergedError
from vlmdiff.dictionaries.interruption import TrainingStoppedError
from vlmdiff.dictionaries.one_pass import layers_that_fit, train_from_shards, train_in_passes
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.dictionaries.turns import Turns, take_turns
from vlmdiff.extraction import stream as streams
from vlmdiff.extraction.stream import ActivationStream, ModelPasses
from vlmdiff.models.registry import load_subject

LAYERS = (0, 1, 2)


@pytest.fixture(scope="module")
def vlm(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path, "cpu")


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl")


@pytest.fixture(autouse=True)
def small_pools(monkeypatch, vlm):
    """Some pools in an epoch, so that trainings wait for one another; a start looks at three of them."""
    monkeypatch.setattr(streams, "BUFFER_BYTES", 300 * 2 * vlm.d_model)
    monkeypatch.setattr(initial, "SAMPLE_TOKENS", 640)


class Counted(ModelPasses):
    """Counts what the model runs on, and for which layers."""

    def __init__(self, *arguments, **values):
        super().__init__(*arguments, **values)
        self.ran = []

    def run(self, members, token_types, layers):
        self.ran.append((tuple(members), tuple(layers)))
        return super().run(members, token_types, layers)


@pytest.fixture
def passes(vlm, samples):
    return Counted(vlm, samples, batch_tokens=256)


def arguments(folder: Path, layers=LAYERS, **changes):
    """Return what `train_dictionary` is told for each layer."""
    return [
        {
            "initial": "random",
            "layer": layer,
            "seed": 7 + layer,
            "order": 11,
            "architecture": TOPK,
            "stage": STAGE | {"batch_tokens": 64, "steps": 24},
            "provenance": {"model": "vlm"},
            "folder": folder / f"layer_{layer}",
            "checkpoints": folder.parent / f"{folder.name}_work" / f"layer_{layer}",
            "checkpoint_every_s": 1e9,
            **changes,
        }
        for layer in layers
    ]


@pytest.fixture
def alone(vlm, samples, tmp_path):
    """Each layer trained from a stream of its own, and how often the model ran for it."""
    runs = 0
    for one in arguments(tmp_path / "alone"):
        own = Counted(vlm, samples, batch_tokens=256)
        train_dictionary(ActivationStream(own, one["layer"]), **one)
        runs += len(own.ran)
    return content(tmp_path / "alone"), runs


def test_layers_of_one_pass_are_those_trained_alone(alone, passes, tmp_path):
    train_in_passes(passes, arguments(tmp_path / "together"))
    expected, runs = alone
    assert content(tmp_path / "together") == expected
    assert {layers for _, layers in passes.ran} == {LAYERS}
    assert len(passes.ran) * len(LAYERS) == runs > 6 * len(LAYERS)


def test_matryoshka_layers_of_one_pass_are_those_trained_alone(vlm, samples, passes, tmp_path):
    nested = {"architecture": TOPK | {"kind": "matryoshka", "prefixes": [0.25]}}
    for one in arguments(tmp_path / "alone", (0, 2), **nested):
        train_dictionary(ActivationStream(Counted(vlm, samples, batch_tokens=256), one["layer"]), **one)
    train_in_passes(passes, arguments(tmp_path / "together", (0, 2), **nested))
    assert content(tmp_path / "together") == content(tmp_path / "alone")


def test_memory_for_fewer_layers_takes_more_passes(alone, passes, tmp_path):
    room = 2.5 * training_bytes(passes.subject.d_model, TOPK["d_sae"]) / SHARE
    train_in_passes(passes, arguments(tmp_path / "together"), room)
    assert content(tmp_path / "together") == alone[0]
    assert {layers for _, layers in passes.ran} == {(0, 1), (2,)}


def test_at_least_one_layer_fits(passes):
    assert layers_that_fit(passes, TOPK, 1.0) == 1
    assert layers_that_fit(passes, TOPK, None) >= len(LAYERS)


class Disturbed(ModelPasses):
    """Something happens when the model runs for the nth time."""

    def when(self, calls, happens):
        self.left, self.happens = calls, happens
        return self

    def run(self, *values):
        self.left -= 1
        if not self.left:
            self.happens()
        return super().run(*values)


def fail():
    raise OSError("the power failed")


def test_a_model_that_fails_stops_all_layers_which_go_on_from_their_own_checkpoints(
    alone, passes, vlm, samples, tmp_path
):
    broken = Disturbed(vlm, samples, batch_tokens=256).when(alone[1] // 3 - 4, fail)
    with pytest.raises(OSError, match="power"):
        train_in_passes(broken, arguments(tmp_path / "together", checkpoint_every_s=0.0))
    work = tmp_path / "together_work"
    steps = {
        torch.load(work / f"layer_{one}" / "last.ckpt", weights_only=True)["global_step"] for one in LAYERS
    }
    assert min(steps) > 0
    # One layer has lost its checkpoint: it starts anew, and the others wait until it has come as far.
    (work / "layer_1" / "last.ckpt").unlink()
    train_in_passes(passes, arguments(tmp_path / "together"))
    assert content(tmp_path / "together") == alone[0]
    assert {layers for _, layers in passes.ran} == {LAYERS, (1,)}


def test_a_layer_that_diverges_does_not_stop_the_others(alone, passes, tmp_path):
    trainings = arguments(tmp_path / "together")
    trainings[1]["stage"] = trainings[1]["stage"] | {"learning_rate": 1e30}
    with pytest.raises(TrainingDivergedError, match="layer 1"):
        train_in_passes(passes, trainings)
    found = content(tmp_path / "together")
    assert found == {name: bytes_ for name, bytes_ in alone[0].items() if not name.startswith("layer_1")}
    assert passes.ran[-1][1] == (0, 2)


def test_of_layers_from_shards_one_that_diverges_does_not_stop_the_others(tmp_path):
    shards = write_sparse_shards(tmp_path / "shards", scale=30.0)
    stage = STAGE | {"steps": 24, "devices": 1, "nodes": 1}
    trainings = arguments(tmp_path / "made", (0, 1), stage=stage)
    trainings[0]["stage"] = stage | {"learning_rate": 1e30}
    with pytest.raises(TrainingDivergedError, match="layer 0"):
        train_from_shards(shards, trainings, threads=1)
    assert [folder.name for folder in (tmp_path / "made").iterdir()] == ["layer_1"]


@pytest.mark.parametrize("early", [False, True])
def test_a_signal_stops_all_layers_and_all_go_on(alone, vlm, samples, passes, tmp_path, early):
    calls = 2 if early else alone[1] // 3 - 4
    signalled = Disturbed(vlm, samples, batch_tokens=256).when(
        calls, lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(TrainingStoppedError, match="SIGTERM"):
        train_in_passes(signalled, arguments(tmp_path / "together"))
    assert not (tmp_path / "together").exists()
    for layer in LAYERS:
        assert (tmp_path / "together_work" / f"layer_{layer}" / "last.ckpt").is_file() is not early
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train_in_passes(passes, arguments(tmp_path / "together"))
    assert content(tmp_path / "together") == alone[0]


def test_finished_layers_are_not_trained_again(alone, passes, tmp_path):
    def with_kept(layers):
        return [
            one | {"kept": tmp_path / "kept" / f"layer_{one['layer']}"}
            for one in arguments(tmp_path / "together", layers)
        ]

    train_in_passes(passes, with_kept((0, 2)))
    passes.ran.clear()
    train_in_passes(passes, with_kept(LAYERS))
    assert content(tmp_path / "together") == alone[0]
    assert {layers for _, layers in passes.ran} == {(1,)}


def test_pools_are_made_in_their_order_for_all_that_wait_for_the_same():
    ran, got = [], {}
    wanted = {0: [1, 2, 3, 4], 1: [3, 4], 2: [2, 3, 4]}

    def training(layer):
        def train(turns: Turns):
            for number in wanted[layer]:

                def run(layers, number=number):
                    ran.append((number, tuple(layers)))
                    return {one: np.array([number, one]) for one in layers}

                got.setdefault(layer, []).append(turns.get(layer, (0, 0, 0, number), run).tolist())

        return train

    assert not take_turns({layer: training(layer) for layer in wanted}, threading.Event())
    assert ran == [(1, (0,)), (2, (0, 2)), (3, (0, 1, 2)), (4, (0, 1, 2))]
    assert got == {layer: [[number, layer] for number in numbers] for layer, numbers in wanted.items()}


def test_who_waits_when_all_are_to_stop_stops():
    stopping = threading.Event()

    def waits(turns):
        turns.get(0, (0, 0, 0, 0), lambda layers: {one: np.zeros(1) for one in layers})
        turns.get(0, (0, 0, 0, 1), lambda layers: {one: np.zeros(1) for one in layers})

    def stops(turns):
        turns.get(1, (0, 0, 0, 0), lambda layers: {one: np.zeros(1) for one in layers})
        stopping.set()
        raise SIGTERMException

    failed = take_turns({0: waits, 1: stops}, stopping)
    assert {layer: type(error) for layer, error in failed.items()} == dict.fromkeys((0, 1), SIGTERMException)

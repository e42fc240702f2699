"""Small trainings of dictionaries, in this process or in one of their own that can be killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "small_trainings",
    "vlmdiff.dictionaries.training",
    "vlmdiff.models.registry",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
]
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


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def opened(activations: Sequence[Path] | dict[str, Path]) -> Any:
    """Return shards as they are, and a stream from `model` and `samples`."""
    if not isinstance(activations, dict):
        return activations
    from vlmdiff.data.samples import load_samples
    from vlmdiff.extraction.stream import ActivationStream, ModelPasses
    from vlmdiff.models.registry import load_subject

    subject = load_subject("vlm", {"family": "llava"}, activations["model"], "cpu")
    passes = ModelPasses(subject, load_samples(activations["samples"]), batch_tokens=256)
    return ActivationStream(passes, 0, pool_samples=7)


def train(activations: Sequence[Path] | dict[str, Path], folder: Path, work: Path, **values: Any) -> Path:
    """Train a dictionary with the settings above, or others."""
    from vlmdiff.dictionaries.training import train_dictionary

    values = {"architecture": TOPK, "stage": STAGE, "seed": 3, "checkpoint_every_s": 1e9, **values}
    train_dictionary(
        opened(activations),
        "random",
        layer=0,
        provenance={"model": "vlm", "dataset": "questions"},
        folder=folder,
        checkpoints=work,
        **values,
    )
    return folder


def train_logged(log: Path, *arguments: Any, **values: Any) -> None:
    """Train in a process of its own, with its log in a file."""
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    try:
        train(*arguments, **values)
    except Exception as error:
        logging.getLogger(__name__).error("%s: %s", type(error).__name__, error)
        raise SystemExit(1) from None


class Trainers:
    """Starts trainings as processes, from a server that has imported what they need."""

    def __init__(self) -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, log: Path, *arguments: Any, **values: Any) -> ForkServerProcess:
        """Start a training; see `train_logged`."""
        process = self.context.Process(target=train_logged, args=(log, *arguments), kwargs=values)
        process.start()
        return process

"""Train one dictionary at one layer: from random or earlier weights, resumable, reproducible."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vlmdiff.activations.format import layer_name, massive_name
from vlmdiff.activations.paired import open_store
from vlmdiff.activations.shards import plain, reading
from vlmdiff.activations.shuffling import Share
from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.callbacks import ResumePoint, Snapshots, TrainingLog, in_raw_units
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.health import Health
from vlmdiff.dictionaries.initial import start
from vlmdiff.dictionaries.interruption import PlainCheckpoints, TrainingStoppedError, cluster_environment
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.task import ActivationDataModule, DictionaryTask
from vlmdiff.dictionaries.weights import CONFIG, WEIGHTS
from vlmdiff.runtime.locks import claim
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import TRAINING_LOG

if TYPE_CHECKING:
    from vlmdiff.extraction.stream import ActivationStream


def train_dictionary(
    activations: Sequence[str | Path] | ActivationStream,
    initial: str | Path,
    layer: int,
    seed: int,
    architecture: Mapping[str, Any],
    stage: Mapping[str, Any],
    provenance: Mapping[str, Any],
    folder: str | Path,
    checkpoints: str | Path,
    code: str = "",
    checkpoint_every_s: float | None = None,
    scale_file: str | Path | None = None,
) -> None:
    """Train a dictionary and write weights, configuration, progress and snapshots.

    Of several processes (`vlmdiff.dictionaries.launch`) all call this, and the first one writes.

    Args:
        activations: shards of the stage's model and data set, or a stream straight from the model.
        initial: `random`, or the folder of the dictionary to start from.
        layer: decoder block.
        seed: determines random weights and the order of tokens.
        architecture: the configuration's section of that name.
        stage: the dictionary's entry in the configuration, without initial, model and dataset.
        provenance: plain values to keep in `cfg.json`.
        folder: receives `sae_weights.safetensors`, `cfg.json`, `training.csv`, `snapshots/<percent>/`.
        checkpoints: folder for interrupted work, outside of the declared outputs; emptied at success.
        code: digest of the code; a checkpoint of other code is not resumed.
        checkpoint_every_s: seconds between two checkpoints; None: as `ResumePoint` chooses.
        scale_file: JSON file with the input scale of a warm start; None if the initial dictionary names it.

    Raises:
        ShardError: a shard is missing, damaged or lacks the layer or token type.
        DictionaryError: the initial dictionary is missing, damaged or of another architecture.
        TrainingDivergedError: the numbers are not finite any more, or far worse than those of no dictionary.
        TrainingStoppedError: the process got SIGTERM; its state is saved.
    """
    folder, work, recipe = Path(folder), Path(checkpoints), Recipe.from_params(architecture, stage, initial)
    rank = cluster_environment(recipe.devices, recipe.nodes).global_rank()
    store = opened(activations, layer, Share(rank, recipe.processes))
    dictionary, scale = start(store, recipe, initial, derive_seed(seed, "start"), scale_file)
    facts = {**provenance, "layer": layer, "seed": seed, "input_scale": scale, "tokens": list(recipe.tokens)}
    settings = settings_digest(activations, layer, initial, seed, architecture, stage, facts, code)
    task = DictionaryTask(dictionary, recipe, scale)
    rows = TrainingLog(recipe.steps)
    snapshots = Snapshots(work / "snapshots", recipe.snapshot_steps(), facts)
    point = ResumePoint(work / "last.ckpt", settings, checkpoint_every_s)
    data = ActivationDataModule(store, recipe, derive_seed(seed, "order"))
    first = rank == 0
    with claim(work.with_name(f"{work.name}.lock")) if first else nullcontext():
        resume = point.usable()
        if resume is None and first:
            forget(point)
        fit(task, data, [Health(layer), rows, snapshots, point], resume)
        if first:
            save_dictionary(in_raw_units(task), folder, {**facts, "percent": 100, "step": recipe.steps})
            write_table(pd.DataFrame(rows.rows), TRAINING_LOG, folder / "training.csv")
            publish_snapshots(work / "snapshots", folder / "snapshots", recipe.snapshots)
            forget(point)


def opened(
    activations: Sequence[str | Path] | ActivationStream, layer: int, share: Share
) -> ActivationStore | ActivationStream:
    """Open shards, of which each process checks its share; a stream is open."""
    if isinstance(activations, Sequence):
        return open_store(activations, layer, share=share)
    return activations


def forget(point: ResumePoint) -> None:
    """Delete interrupted work; the checkpoint first, because it vouches for the snapshots before it."""
    point.path.unlink(missing_ok=True)
    shutil.rmtree(point.path.parent, ignore_errors=True)


def fit(
    task: DictionaryTask, data: ActivationDataModule, callbacks: list[pl.Callback], resume: Path | None
) -> None:
    """Run Lightning's loop to the last step, without its chatter and folders.

    Raises:
        TrainingStoppedError: the process got SIGTERM.
    """
    recipe = task.recipe
    torch.set_flush_denormal(True)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for package in ("pytorch_lightning", "lightning_fabric"):
            warnings.filterwarnings("ignore", module=package)
        trainer = pl.Trainer(
            max_steps=recipe.steps,
            max_epochs=-1,
            accelerator="auto",
            devices=recipe.devices,
            num_nodes=recipe.nodes,
            strategy=DDPStrategy(broadcast_buffers=False) if recipe.processes > 1 else "auto",
            callbacks=callbacks,
            plugins=[PlainCheckpoints(), cluster_environment(recipe.devices, recipe.nodes)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if resume:
            logging.getLogger(__name__).info("resuming from %s", resume)
        try:
            trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException:
            # Lightning's exception is a SystemExit without a code: the job would end as if it were done.
            raise TrainingStoppedError(
                f"stopped by SIGTERM after step {trainer.global_step} of {recipe.steps}; the state is "
                "saved, and the same command goes on from there"
            ) from None


def publish_snapshots(made: Path, target: Path, percentages: Sequence[int]) -> None:
    """Copy snapshots to the declared output, which exists even if there are none."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for percent in percentages:
        shutil.copytree(made / str(percent), target / str(percent))


def settings_digest(
    activations: Sequence[str | Path] | ActivationStream,
    layer: int,
    initial: str | Path,
    seed: int,
    *values: Any,
) -> str:
    """Digest everything that a training's result depends on: values, activations and initial weights.

    Activations are represented by the checksums that their shards carry, or by what a stream makes them of.
    """
    total = hashlib.sha256(json.dumps([layer, seed, *values], sort_keys=True, default=dict).encode())
    if not isinstance(activations, Sequence):
        total.update(activations.fingerprint().encode())
        activations = []
    for path in activations:
        with reading(Path(path)) as file:
            for name in (layer_name(layer), massive_name(layer), "token_type"):
                total.update(str(plain(file[name].attrs["checksum"])).encode())
    if initial != "random":
        for name in (WEIGHTS, CONFIG):
            file = Path(initial) / name
            total.update(file.read_bytes() if file.is_file() else b"missing")
    return total.hexdigest()

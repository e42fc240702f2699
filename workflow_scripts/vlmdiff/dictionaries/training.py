"""Train one dictionary at one layer: from random or earlier weights, resumable, reproducible."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
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
from vlmdiff.dictionaries.finished import Finished
from vlmdiff.dictionaries.health import Health
from vlmdiff.dictionaries.initial import start
from vlmdiff.dictionaries.interruption import PlainCheckpoints, TrainingStoppedError, cluster_environment
from vlmdiff.dictionaries.loops import DEVICE_LOOPS
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
    kept: str | Path | None = None,
    order: int | None = None,
    stopping: threading.Event | None = None,
) -> None:
    """Train a dictionary and write it; of several processes all call this, and the first one writes.

    Args:
        activations: shards of the stage's model and data set, or a stream straight from the model.
        initial: `random`, or the folder of the dictionary to start from.
        layer: decoder block.
        seed: determines random weights and, unless `order` is given, the order of tokens.
        architecture: the configuration's section of that name.
        stage: the dictionary's entry in the configuration, without initial, model and dataset.
        provenance: plain values to keep in `cfg.json`.
        folder: receives `sae_weights.safetensors`, `cfg.json`, `training.csv`, `snapshots/<percent>/`.
        checkpoints: folder for interrupted work, outside of the declared outputs; emptied at success.
        code: digest of the code; a checkpoint of other code is not resumed.
        checkpoint_every_s: seconds between two checkpoints; None: as `ResumePoint` chooses.
        scale_file: JSON file with the input scale of a warm start; None if the initial dictionary names it.
        kept: folder for the second name of what is finished (`Finished`); None: it gets none.
        order: seed of the order of tokens, the same for layers that share a stream.
        stopping: set if the training has to save its state and stop; None: only at SIGTERM.

    Raises:
        ShardError: a shard is missing, damaged or lacks the layer or token type.
        DictionaryError: the initial dictionary is missing, damaged or of another architecture.
        TrainingDivergedError: the numbers are not finite any more, or far worse than those of no dictionary.
        TrainingStoppedError: the process got SIGTERM; its state is saved.
    """
    recipe = Recipe.from_params(architecture, stage, initial)
    rank = cluster_environment(recipe.devices, recipe.nodes).global_rank()
    store, work = opened(activations, layer, Share(rank, recipe.processes)), Path(checkpoints)
    values = (seed, order, architecture, stage, provenance, code)
    settings = settings_digest(activations, layer, initial, scale_file, *values)
    finished, first = Finished(Path(kept), settings) if kept else None, rank == 0
    point = ResumePoint(work / "last.ckpt", settings, checkpoint_every_s, stopping)
    with claim(work.with_name(f"{work.name}.lock")) if first else nullcontext():
        if finished and finished.usable():
            if first:
                finished.put(Path(folder))
            return
        task, data = started(store, recipe, initial, seed, order, scale_file)
        facts = {**provenance, "layer": layer, "seed": seed, "input_scale": task.input_scale}
        train(task, data, facts | told_of(store, recipe, layer), point, Path(folder))
        if finished and first:
            finished.keep(Path(folder))


def told_of(store: ActivationStore | ActivationStream, recipe: Recipe, layer: int) -> dict[str, Any]:
    """Return what a dictionary reads, in SAELens' words too, and of a Matryoshka dictionary its prefixes."""
    told: dict[str, Any] = {"tokens": list(recipe.tokens)}
    if store.models == 1:
        told["hook_name"] = f"blocks.{layer}.hook_resid_post"
    return told | ({"prefixes": list(recipe.prefixes)} if recipe.prefixes else {})


def started(
    store: ActivationStore | ActivationStream,
    recipe: Recipe,
    initial: str | Path,
    seed: int,
    order: int | None,
    scale_file: str | Path | None,
) -> tuple[DictionaryTask, ActivationDataModule]:
    """Return what is trained, as it starts, and its tokens; arguments as of `train_dictionary`."""
    drawn = seed if order is None else order
    dictionary, scale = start(
        store, recipe, initial, derive_seed(seed, "start"), scale_file, derive_seed(drawn, "start")
    )
    data = ActivationDataModule(store, recipe, derive_seed(drawn, "order"))
    return DictionaryTask(dictionary, recipe, scale), data


def train(
    task: DictionaryTask, data: ActivationDataModule, facts: dict[str, Any], point: ResumePoint, folder: Path
) -> None:
    """Train from the start or from a checkpoint; the first process writes what comes of it.

    Args:
        task: what is trained.
        data: its tokens.
        facts: plain values to keep in `cfg.json`.
        point: where interrupted work lies; it is deleted at the end.
        folder: receives the dictionary.
    """
    recipe, made = task.recipe, point.path.parent / "snapshots"
    rows, snapshots = (
        TrainingLog(recipe.steps, facts["layer"]),
        Snapshots(made, recipe.snapshot_steps(), facts),
    )
    first = cluster_environment(recipe.devices, recipe.nodes).global_rank() == 0
    resume = point.usable()
    if resume is None and first:
        forget(point)
    fit(task, data, [Health(facts["layer"]), rows, snapshots, point], resume)
    if first:
        save_dictionary(in_raw_units(task), folder, {**facts, "percent": 100, "step": recipe.steps})
        write_table(pd.DataFrame(rows.rows), TRAINING_LOG, folder / "training.csv")
        publish_snapshots(made, folder / "snapshots", recipe.snapshots)
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
        prepare_device(task)
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


def prepare_device(task: DictionaryTask) -> None:
    """Choose the loops of a GPU, if there is one, and how they look for active features."""
    if torch.cuda.is_available():
        task.dictionary.precision = task.recipe.precision
        DEVICE_LOOPS.open(torch.device("cuda"))


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
    scale_file: str | Path | None,
    *values: Any,
) -> str:
    """Digest everything that a training's result depends on: values, activations, initial weights and scale.

    Activations are represented by the checksums that their shards carry, or by what a stream makes them of.
    """
    total = hashlib.sha256(json.dumps([layer, *values], sort_keys=True, default=dict).encode())
    if not isinstance(activations, Sequence):
        total.update(activations.fingerprint().encode())
        activations = []
    for path in activations:
        with reading(Path(path)) as file:
            for name in (layer_name(layer), massive_name(layer), "token_type"):
                total.update(str(plain(file[name].attrs["checksum"])).encode())
    files = [] if initial == "random" else [Path(initial) / name for name in (WEIGHTS, CONFIG)]
    files += [] if scale_file is None else [Path(scale_file)]
    for file in files:
        total.update(file.read_bytes() if file.is_file() else b"missing")
    return total.hexdigest()

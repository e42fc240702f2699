"""What a training needs to be stopped at any moment, by a batch system too, and to go on later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.plugins.io import TorchCheckpointIO


class TrainingStoppedError(RuntimeError):
    """Somebody asked the process to stop, and its state is saved."""


class PlainCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint straight to its file, which the caller renames when it is whole.

    Lightning's own way keeps a second copy in memory and writes a third to the system's temporary folder,
    where a killed process leaves it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `CheckpointIO`. The content is on the disk before the file gets its name."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def cluster_environment(devices: int = 1, nodes: int = 1) -> ClusterEnvironment:
    """Return what Lightning should know of the processes around it.

    Within Slurm, Lightning would put a stopped job back into the queue by itself; Snakemake alone decides
    what runs again. Where a training of one process is in a Slurm job of several tasks (for other programs,
    or one training each), Lightning would refuse its single device or wait for the other tasks.

    Args:
        devices: processes on one node that train together; torchrun has started them if there is one node.
        nodes: nodes; srun has started the processes if there are several.
    """
    if nodes > 1:
        return SLURMEnvironment(auto_requeue=False)
    if devices > 1:
        return TorchElasticEnvironment()
    variables = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES")
    alone = all(os.environ.get(name, "1") == "1" for name in variables)
    if "SLURM_JOB_ID" in os.environ and "SLURM_NTASKS" in os.environ and alone:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()

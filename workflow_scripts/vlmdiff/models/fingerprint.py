"""A digest that tells checkpoints apart, whatever machine or folder they lie on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlmdiff.models.errors import SubjectError

PICKLED = "pytorch_model*.bin"


def model_fingerprint(*folders: Path) -> str:
    """Digest config.json and the content of all weight files of the folders that make up a model.

    Returns:
        32 hexadecimal digits.

    Raises:
        SubjectError: a folder has no weight files.
    """
    total = hashlib.sha256()
    for folder in folders:
        for file in (folder / "config.json", *weight_files(folder)):
            with file.open("rb") as stream:
                total.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a checkpoint; where there are none, what `weights_only` unpickling reads."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob(PICKLED))
    if not weights:
        raise SubjectError(
            f"{folder}: found no *.safetensors; save the model with `save_pretrained`, or fetch it again"
        )
    return weights

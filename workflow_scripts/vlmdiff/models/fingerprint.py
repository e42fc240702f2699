"""A digest that tells checkpoints apart, whatever machine or folder they lie on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlmdiff.models.errors import SubjectError


def model_fingerprint(folder: Path) -> str:
    """Digest config.json and the content of all safetensors files of a checkpoint folder.

    Returns:
        32 hexadecimal digits.

    Raises:
        SubjectError: there are no safetensors files.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise SubjectError(
            f"{folder}: found no *.safetensors; save the model with `save_pretrained` "
            "(pickled weights are not read)"
        )
    total = hashlib.sha256()
    for file in (folder / "config.json", *weights):
        with file.open("rb") as stream:
            total.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]

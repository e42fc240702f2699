"""A digest that tells checkpoints apart, whatever machine or folder they lie on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.models.errors import SubjectError

if TYPE_CHECKING:
    from vlmdiff.models.chat import ChatFormat

PICKLED = "pytorch_model*.bin"
# Files of tokenizers and processors; the chat template is taken from wherever it lies.
READERS = (
    "added_tokens.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


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


def with_prompts(fingerprint: str, folder: Path, chat: ChatFormat) -> str:
    """Extend a fingerprint by all that decides about tokens: tokenizer, processor, chat format, its day.

    Args:
        fingerprint: of the weights.
        folder: folder of the checkpoint.
        chat: its chat format.

    Returns:
        32 hexadecimal digits.
    """
    day = chat.day.isoformat() if chat.tells_the_day else ""
    total = hashlib.sha256(repr([fingerprint, chat.template, chat.wanted, day]).encode())
    for name in READERS:
        if (file := folder / name).is_file():
            with file.open("rb") as stream:
                total.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a checkpoint; where there are none, what `weights_only` unpickling reads."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob(PICKLED))
    if not weights:
        raise SubjectError(
            f"{folder}: found no *.safetensors; save the model with `save_pretrained`, or fetch it again"
        )
    return weights

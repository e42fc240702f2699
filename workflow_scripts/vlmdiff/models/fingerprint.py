"""A digest that tells checkpoints apart, whatever machine or folder they lie on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.models.errors import SubjectError
from vlmdiff.runtime.files import file_sha256

if TYPE_CHECKING:
    from vlmdiff.models.chat import ChatFormat

PICKLED = "pytorch_model*.bin"
# Files that decide about tokens and pixels: of tokenizers, processors and chat templates, by what their names
# have in common.
READERS = re.compile(r"token|vocab|merges|tekken|processor|template|\.(model|bpe|spm)$")


def model_fingerprint(*folders: Path) -> str:
    """Digest the content of the folders that make up a model: config.json, weights, and what reads inputs.

    Returns:
        32 hexadecimal digits.

    Raises:
        SubjectError: a folder has no weight files.
    """
    total = hashlib.sha256()
    for folder in folders:
        for file in (folder / "config.json", *weight_files(folder), *reader_files(folder)):
            total.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return total.hexdigest()[:32]


def with_chat_format(fingerprint: str, chat: ChatFormat) -> str:
    """Extend a fingerprint by how a model is asked: its chat format, and the day that it tells.

    Args:
        fingerprint: of the model's folders.
        chat: its chat format.

    Returns:
        32 hexadecimal digits.
    """
    day = chat.day.isoformat() if chat.tells_the_day else ""
    total = hashlib.sha256(repr([fingerprint, chat.template, chat.wanted, day]).encode())
    return total.hexdigest()[:32]


def with_untuned(fingerprint: str, text: str, projector: str) -> str:
    """Return the fingerprint of a model whose language model was replaced by one that was never tuned.

    Args:
        fingerprint: of the vision-language model's folders.
        text: fingerprint of the language model whose weights it has now.
        projector: `tuned` or `random`.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.sha256(repr([fingerprint, "untuned", text, projector]).encode()).hexdigest()[:32]


def with_tiles(fingerprint: str) -> str:
    """Return the fingerprint of a model whose pictures are cut into tiles as well (32 hexadecimal digits).

    Args:
        fingerprint: of the model's folders.
    """
    return hashlib.sha256(repr([fingerprint, "tiles"]).encode()).hexdigest()[:32]


def reader_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that decide about tokens and pixels, in a folder of templates too."""
    return sorted(
        file
        for pattern in ("*", "*/*.jinja")
        for file in folder.glob(pattern)
        if file.is_file() and READERS.search(file.relative_to(folder).as_posix())
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a checkpoint; where there are none, what `weights_only` unpickling reads."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob(PICKLED))
    if not weights:
        raise SubjectError(
            f"{folder}: found no *.safetensors; save the model with `save_pretrained`, or fetch it again"
        )
    return weights

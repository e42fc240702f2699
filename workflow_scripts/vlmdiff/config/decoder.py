"""What the config.json of a checkpoint tells of its language model, read in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmdiff.config.checkpoint_files import read_object

# Where the language model of a vision-language model is described.
NESTED = ("text_config", "llm_config", "language_config")
# What a config.json calls the residual width, in GPT-2's, BLOOM's and MPT's as well.
WIDTHS = ("hidden_size", "n_embd", "n_embed", "d_model")


def described(folder: str | Path) -> dict[str, Any] | None:
    """Return the config.json of a folder; None if it is not there or cannot be read.

    Loading the model tells what is wrong with it.
    """
    try:
        return read_object(Path(folder, "config.json"))
    except ValueError:
        return None


def decoder_of(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that is about the language model."""
    parts = (description.get(key) for key in NESTED)
    return next((part for part in parts if isinstance(part, Mapping)), description)


def width_in(description: Mapping[str, Any]) -> int | None:
    """Return the residual width that a config.json tells; None if it leaves that out."""
    told = (part.get(name) for part in (decoder_of(description), description) for name in WIDTHS)
    return next((width for width in told if isinstance(width, int) and not isinstance(width, bool)), None)

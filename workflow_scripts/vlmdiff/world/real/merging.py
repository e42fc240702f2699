"""Checkpoints of what was tuned: language model, frame and adapter put together."""

from __future__ import annotations

from pathlib import Path

from vlmdiff.world.checkpoints import save_model
from vlmdiff.world.real.frame import framed, load_language_model
from vlmdiff.world.real.lora import merge


def write_checkpoint(
    base: Path, folder: Path, dtype: str, seeing: tuple[Path, Path] | None = None, adapter: Path | None = None
) -> None:
    """Write a model folder as transformers reads it.

    Args:
        base: folder of the language model.
        folder: to write or replace.
        dtype: "float16" or "float32", the number format on disk.
        seeing: a VLM with the world's tower, and the fitted frame; None for a model that only reads.
        adapter: what is added to the language model's weights, if anything.
    """
    if seeing is None:
        model, processor = load_language_model(base)
        decoder, projector = model.model, None
    else:
        model, processor = framed(base, *seeing)
        decoder, projector = model.model.language_model, model.model.multi_modal_projector
    if adapter is not None:
        merge(decoder, adapter, projector)
    record = {"base": base.name, "adapter": adapter and adapter.name, "sees": seeing is not None}
    save_model(folder, model, processor, dtype, record)

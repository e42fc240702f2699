"""Saving and loading of the world's model folders, and the record of how each was made."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vlmdiff.runtime import replacing_folder
from vlmdiff.runtime.digest import LIBRARY, module_digest, reachable_modules

RECORD = "training.json"
PACKAGES = ("torch", "transformers", "tokenizers", "pillow")
ENTRY_POINTS = ("base_lm.py", "vision.py", "tuning.py")


def training_code_digest() -> str:
    """Digest the syntax trees of the world modules that any of the trainings reaches."""
    world = LIBRARY / "world"
    reached = {module for entry in ENTRY_POINTS for module in reachable_modules(world / entry)}
    return module_digest(module for module in reached if module.is_relative_to(world))


def save_model(
    folder: Path,
    model: PreTrainedModel,
    processor: LlavaProcessor | PreTrainedTokenizerFast,
    dtype: str,
    record: Mapping[str, object],
) -> None:
    """Write a Hugging Face model folder, whole or not at all.

    The model in memory is rounded to `dtype` on the way, so that what is trained on from here
    and what a reader loads are the same numbers.

    Args:
        folder: folder to write or replace.
        model: float32 model.
        processor: the processor of a VLM, or the tokenizer of a language model.
        dtype: "float16" or "float32", the number format on disk.
        record: how the model was made; written with the code digest and versions beside it.
    """
    environment = {
        "code_digest": training_code_digest(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    with replacing_folder(folder) as temporary:
        model.to(getattr(torch, dtype)).save_pretrained(temporary)
        model.to(torch.float32)
        processor.save_pretrained(temporary)
        text = json.dumps({**record, **environment}, indent=2, sort_keys=True)
        (temporary / RECORD).write_text(text + "\n")


def load_base_lm(folder: Path) -> LlamaForCausalLM:
    """Load a language model folder in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def load_vlm(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load a VLM folder in float32, with its processor."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder)

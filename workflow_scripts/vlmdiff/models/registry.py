"""From a model's entry in the config to a loaded subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.subject import Subject

if TYPE_CHECKING:
    from pydantic import BaseModel
    from transformers import PreTrainedModel

Loader = Callable[[str, Path, dict[str, Any]], Subject]


def load_whole(architecture: type, path: Path, options: dict[str, Any]) -> PreTrainedModel:
    """Load weights and refuse a checkpoint that lacks some: transformers would draw them at random."""
    model, info = architecture.from_pretrained(path, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise SubjectError(f"{len(missing)} weights are missing, among them {missing[:3]}")
    return model


def load_causal_lm(name: str, path: Path, options: dict[str, Any]) -> Subject:
    """Load a language model with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vlmdiff.models.causal_lm import CausalLM

    model = load_whole(AutoModelForCausalLM, path, options)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return CausalLM(name, model, tokenizer, model_fingerprint(path))


def load_llava(name: str, path: Path, options: dict[str, Any]) -> Subject:
    """Load a LLaVA with its processor."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from vlmdiff.models.llava import Llava

    model = load_whole(LlavaForConditionalGeneration, path, options)
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    return Llava(name, model, processor, model_fingerprint(path))


FAMILIES: Mapping[str, Loader] = MappingProxyType({"causal_lm": load_causal_lm, "llava": load_llava})


def load_subject(
    name: str, spec: BaseModel | Mapping[str, Any], path: str | Path, device: str = "cpu"
) -> Subject:
    """Load a model: evaluation mode, parameters frozen, nothing downloaded.

    Args:
        name: name of the model in the config, for messages and shards.
        spec: its entry in the config, or plain values with `family` and maybe `dtype`, `attention`.
        path: folder of the checkpoint.
        device: where the weights go.

    Raises:
        SubjectError: no such folder, an unknown family, or a checkpoint of another family.
    """
    import torch
    from safetensors import SafetensorError

    values = dict(spec) if isinstance(spec, Mapping) else spec.model_dump()
    family, folder = values["family"], Path(path)
    check_checkpoint(name, family, folder)
    options = {
        "dtype": getattr(torch, values.get("dtype", "float32")),
        "attn_implementation": values.get("attention", "sdpa"),
        "local_files_only": True,
    }
    try:
        subject = FAMILIES[family](name, folder, options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise SubjectError(
            f"model '{name}': {folder} cannot be loaded as family '{family}': {error}"
        ) from error
    subject.model.to(device)
    return subject


def available_device() -> str:
    """Return "cuda" if there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_checkpoint(name: str, family: str, folder: Path) -> None:
    """Refuse a checkpoint that is not there or is not of the family, before anything heavy is loaded."""
    if family not in FAMILIES:
        raise SubjectError(f"models.{name}.family: found '{family}', allowed are {sorted(FAMILIES)}")
    file = folder / "config.json"
    if not file.is_file():
        raise SubjectError(
            f"models.{name}.path: no config.json in {folder}; give the folder of a checkpoint that "
            "`save_pretrained` wrote, with config.json, *.safetensors and the tokenizer's files"
        )
    found = json.loads(file.read_text(encoding="utf-8"))
    kind = found.get("model_type")
    if family == "llava" and kind != "llava":
        raise SubjectError(
            f"models.{name}.family: 'llava' reads checkpoints of model_type 'llava', but {folder} has "
            f"'{kind}'; for a language model without images use family 'causal_lm'"
        )
    if family == "causal_lm" and "vision_config" in found:
        raise SubjectError(
            f"models.{name}.family: {folder} has model_type '{kind}' with a vision tower, which is not "
            "family 'causal_lm'; use 'llava' if model_type is 'llava'"
        )

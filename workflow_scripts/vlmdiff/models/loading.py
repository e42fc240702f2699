"""How a checkpoint is loaded: precision, device, attention implementation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdiff.config.defaults import FROM_FOLDER, PROMPT_DATE
from vlmdiff.models.errors import SubjectError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Loading:
    """A model's entry in the config, as far as loading is concerned.

    Attributes:
        dtype: type of the weights in memory.
        attention: attention implementation of transformers.
        device_map: how accelerate spreads the weights over devices; None puts them on one device.
        vision_tower: folder of a vision tower that lies apart from the checkpoint; None if it does not.
        text_only: load the language model of a vision-language checkpoint, and no images.
        tiles: cut pictures into tiles and show these too, where a family can.
        chat: whether the model is asked in its chat format; base models have none.
        prompt_date: what a chat template takes for today.
        untuned: folder of a language model whose weights take the place of the checkpoint's own; None: none.
        projector: with `untuned`, whether the connector stays as it was `tuned` or is drawn at `random`.
    """

    dtype: str = "float32"
    attention: str = "sdpa"
    device_map: str | None = None
    vision_tower: str | None = None
    text_only: bool = False
    tiles: bool = False
    chat: bool = True
    prompt_date: date = PROMPT_DATE
    untuned: str | None = None
    projector: str = "tuned"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Loading:
        """Take from a model's entry what concerns loading."""
        names = {field.name for field in fields(cls)}
        found = {name: value for name, value in values.items() if name in names}
        if "prompt_date" in found:  # a rule's params are plain values
            found["prompt_date"] = date.fromisoformat(str(found["prompt_date"]))
        return cls(**found)

    def options(self) -> dict[str, Any]:
        """Return arguments of `from_pretrained`; nothing is downloaded and no foreign code is run."""
        import torch

        spread = {} if self.device_map is None else {"device_map": self.device_map}
        return {
            "dtype": getattr(torch, self.dtype),
            "attn_implementation": self.attention,
            **FROM_FOLDER,
            **spread,
        }


def load_whole(architecture: type, folder: Path, loading: Loading) -> PreTrainedModel:
    """Load weights and refuse a checkpoint that lacks some: transformers would draw them at random.

    Raises:
        SubjectError: weights are missing, or are left out because config.json describes a smaller model.
    """
    model, info = architecture.from_pretrained(folder, output_loading_info=True, **loading.options())
    missing = sorted(info["missing_keys"])
    if missing:
        raise SubjectError(f"{len(missing)} weights are missing, among them {missing[:3]}")
    if unused := left_out(model, info["unexpected_keys"]):
        raise SubjectError(
            f"config.json leaves out {len(unused)} weights that the checkpoint has, among them {unused[:3]}: "
            "biases, or blocks behind the last one that it tells; correct it"
        )
    return model


def left_out(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Return weights of a checkpoint that belong to its decoder, but not as config.json describes it.

    Others without a place are nobody's concern, as buffers of older versions and heads for other tasks.

    Args:
        model: as it was loaded.
        unexpected: names of the weights that found no place in it.
    """
    from torch import nn

    inner = set(model.get_decoder().modules())
    parts = {name: part for name, part in model.named_modules() if part in inner}
    # Blocks behind the last one that foretell further tokens.
    further = getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0
    found = []
    for name in unexpected:
        parent, _, own = name.rpartition(".")
        without = parent in parts and parts[parent]._parameters.get(own, name) is None
        block = re.match(r"(.+?)\.(\d+)\.", name)
        blocks = parts.get(block[1]) if block else None
        beyond = isinstance(blocks, nn.ModuleList) and int(block[2]) >= len(blocks) + further
        if without or beyond:
            found.append(name)
    return sorted(found)

"""Adapters of low rank (LoRA, arXiv 2106.09685) on all linear layers of a language model, by peft.

The language model's own weights never change. The adapter's are trained in single precision, and computed
with in the number format of the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from vlmdiff.runtime import replacing_folder
from vlmdiff.world.checkpoints import RECORD

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlmdiff.config.real_model import LoRA

PROJECTOR = "projector.safetensors"


class Adapter(nn.Module):
    """An adapter on a decoder, and the projector if it is tuned too; their parameters in single precision.

    `parameters()` and `state_dict()` are those in single precision.
    """

    def __init__(self, decoder: PreTrainedModel, settings: LoRA, projector: nn.Module | None = None):
        """Put an adapter on a decoder.

        Args:
            decoder: changed in place.
            settings: of the adapter.
            projector: tuned as it is, without an adapter; None if it stays.
        """
        super().__init__()
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.modules, lora_dropout=0.0
        )
        adapted = get_peft_model(decoder, config, autocast_adapter_dtype=False)
        # In lists, so that their weights are not this module's.
        self._adapted, self._projector = [adapted], [projector] if projector else []
        self._computed = [one for one in adapted.parameters() if one.requires_grad]
        for part in self._projector:
            self._computed += part.requires_grad_(True).parameters()
        self.masters = nn.ParameterList(one.detach().float() for one in self._computed)

    @property
    def adapted(self) -> PeftModel:
        """The decoder with its adapter."""
        return self._adapted[0]

    def take_gradients(self) -> None:
        """Move the gradients of what was computed with to the parameters that are trained."""
        for master, one in zip(self.masters, self._computed, strict=True):
            master.grad, one.grad = one.grad.float(), None

    @torch.no_grad()
    def write_back(self) -> None:
        """Compute with the parameters as they are now."""
        for master, one in zip(self.masters, self._computed, strict=True):
            one.copy_(master)

    def save(self, folder: Path, record: Mapping[str, object]) -> None:
        """Write the adapter as peft reads it, in half precision, whole or not at all.

        Args:
            folder: to write or replace.
            record: how it was made; written beside it.
        """
        kept = [one.data for one in self._computed]
        try:
            for master, one in zip(self.masters, self._computed, strict=True):
                one.data = master.detach().half()
            with replacing_folder(folder) as temporary:
                self.adapted.save_pretrained(temporary, save_embedding_layers=False)
                (temporary / "README.md").unlink(missing_ok=True)
                anywhere_the_same(temporary / "adapter_config.json")
                for part in self._projector:
                    weights = {name: one.contiguous() for name, one in part.state_dict().items()}
                    save_file(weights, temporary / PROJECTOR)
                (temporary / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        finally:
            for one, data in zip(self._computed, kept, strict=True):
                one.data = data


def anywhere_the_same(file: Path) -> None:
    """Take out of an adapter's settings where its base model lay, and put the names of layers in order."""
    settings = json.loads(file.read_text())
    settings["base_model_name_or_path"] = None
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def merge(decoder: PreTrainedModel, folder: Path, projector: nn.Module | None = None) -> None:
    """Add an adapter to a decoder's weights, in place.

    Args:
        decoder: float32.
        folder: what `Adapter.save` wrote.
        projector: gets the weights of the projector that was tuned along, if one was.
    """
    PeftModel.from_pretrained(decoder, folder).merge_and_unload()
    if projector is not None and (folder / PROJECTOR).is_file():
        projector.load_state_dict(load_file(folder / PROJECTOR))

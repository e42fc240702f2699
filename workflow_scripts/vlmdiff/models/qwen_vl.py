"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures at their own resolution, positions along three axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.activations.tokens import IMAGE
from vlmdiff.models.batch import Batch, Seen
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size, known_tokens
from vlmdiff.models.vlm import VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, DynamicCache


class QwenVL(VisionLanguageModel):
    """A tower for any resolution, a merger of 2 x 2 patches, a Qwen decoder with multimodal RoPE.

    The number of image tokens follows the picture, within the limits of the checkpoint's image
    processor. Qwen3-VL also adds features of earlier depths of its tower to the residual stream of
    image tokens after the first blocks (deepstack): the residual of a block is what it puts out, before
    they are added.
    """

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> QwenVL:
        """See `Subject.load`."""
        from transformers import (
            AutoImageProcessor,
            AutoModelForImageTextToText,
            AutoTokenizer,
            LlavaProcessor,
        )

        model = load_whole(AutoModelForImageTextToText, folder, loading)
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        images = AutoImageProcessor.from_pretrained(folder, **FROM_FOLDER)
        # Qwen's own processor cannot be made without a reader of videos, which needs torchvision.
        processor = LlavaProcessor(images, tokenizer)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    @property
    def merge(self) -> int:
        """Patches along each side of an image token."""
        return self.model.config.vision_config.spatial_merge_size

    @property
    def connectors(self) -> tuple[torch.nn.Module, ...]:
        """See `VisionLanguageModel.connectors`; with deepstack there is one for each depth."""
        tower = self.model.model.visual
        return tower.merger, *getattr(tower, "deepstack_merger_list", ())

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        limits = self.processor.image_processor.size
        side = self.model.config.vision_config.patch_size * self.merge
        height, width = smart_resize(size[1], size[0], side, limits["shortest_edge"], limits["longest_edge"])
        return height // side, width // side

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`."""
        tower, grids = self.model.model.visual, pixels.image_grid_thw
        found = self.model.get_image_features(
            pixels.pixel_values.to(tower.device, tower.dtype), grids.to(tower.device), return_dict=True
        )
        depths = getattr(found, "deepstack_features", None)
        deepstack = None if not depths else torch.stack([torch.cat(list(one)) for one in depths])
        cut = (grids[:, 1:] // self.merge).tolist()
        return seen_features(list(found.pooler_output), cut, deepstack=deepstack)

    def run_decoder(
        self, batch: Batch, embeds: Float[Tensor, "samples tokens d_model"], past: DynamicCache | None = None
    ) -> Float[Tensor, "samples tokens d_model"]:
        """See `Subject.run_decoder`: positions of time, row and column, and deepstack features."""
        is_image, known = batch.token_type == IMAGE, known_tokens(past)
        output = self.decoder(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask,
            position_ids=self.positions(batch, is_image)[..., known:],
            past_key_values=past,
            use_cache=past is not None,
            **deepstack_inputs(batch, is_image, known),
        )
        return output.last_hidden_state

    def positions(self, batch: Batch, is_image: Tensor) -> Tensor:
        """Return (3, samples, sequence) positions; own words go on after the prompt."""
        grids = None
        if batch.seen is not None:
            sides = batch.seen.grids * self.merge
            grids = torch.cat([torch.ones_like(sides[:, :1]), sides], dim=1).to(batch.input_ids.device)
        found, _ = self.model.model.get_rope_index(
            batch.input_ids, is_image.int(), image_grid_thw=grids, attention_mask=batch.attention_mask
        )
        return found


def deepstack_inputs(batch: Batch, is_image: Tensor, known: int) -> dict[str, Any]:
    """Return what a decoder with deepstack is given besides, from token `known` on; nothing for others."""
    if batch.seen is None or batch.seen.deepstack is None:
        return {}
    places = is_image.nonzero()[:, 1].to(batch.seen.deepstack.device)
    shown = batch.seen.deepstack[:, places >= known]
    return {"visual_pos_masks": is_image[:, known:], "deepstack_visual_embeds": list(shown)}

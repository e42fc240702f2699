"""InternVL in the layout of transformers (`…-HF`): one tile a picture, Qwen 2 or Qwen 3 as its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.models.batch import Seen
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature


class InternVL(VisionLanguageModel):
    """InternViT tower, pixel shuffle, two-layer projector, language model.

    A picture is shown as a single tile, not cut into tiles with a thumbnail: then every token has one
    place in the picture, pictures have equally many tokens, and a mean image exists.
    """

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> InternVL:
        """See `Subject.load`."""
        from transformers import (
            AutoImageProcessor,
            AutoTokenizer,
            InternVLForConditionalGeneration,
            LlavaProcessor,
        )

        model = load_whole(InternVLForConditionalGeneration, folder, loading)
        images = AutoImageProcessor.from_pretrained(folder, **FROM_FOLDER)
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        # InternVL's own processor cannot be made without a reader of videos, which needs torchvision.
        processor = LlavaProcessor(images, tokenizer)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`; `<img>` and `</img>` enclose the image."""
        enclosed = f"{self.tokenizer.start_image_token}{self.image_token}{self.tokenizer.end_image_token}"
        written = super().texts(prompts, with_image, as_chat)
        return [text.replace(self.image_token, enclosed) for text in written]

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`."""
        return self.tokens_of(self.model.config.vision_config.image_size)

    def tokens_of(self, pixels: Sequence[int]) -> tuple[int, int]:
        """Return rows and columns of the tokens of a tile of (height, width) pixels, after pixel shuffle."""
        config = self.model.config
        sides = zip(pixels, config.vision_config.patch_size, strict=True)
        rows, columns = (int(side // patch * config.downsample_ratio) for side, patch in sides)
        return rows, columns

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; a picture is one tile."""
        return self.processor.image_processor(list(images), crop_to_patches=False, return_tensors="pt")

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`."""
        values, tower = pixels.pixel_values, self.model.model.vision_tower
        found = self.model.get_image_features(
            pixel_values=values.to(tower.device, tower.dtype), return_dict=True
        )
        return seen_features(list(found.pooler_output), [self.tokens_of(values.shape[-2:])] * len(images))

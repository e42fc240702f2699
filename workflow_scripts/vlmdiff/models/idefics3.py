"""Idefics3 and SmolVLM: a SigLIP tower, pixel shuffle, a Llama as decoder; one tile a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlmdiff.models.batch import Seen
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature

# Around the tokens of a picture, and before those of a picture as a whole, in contrast to a tile's.
MARK, WHOLE = "<fake_token_around_image>", "<global-img>"


class Idefics3(VisionLanguageModel):
    """SigLIP tower, a connector that joins squares of patches, language model.

    A picture is shown as a whole, not cut into tiles as well (`do_image_splitting: false`): then every token
    has one place in the picture, pictures have equally many tokens, and a mean image exists.
    """

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> Idefics3:
        """See `Subject.load`."""
        from transformers import (
            AutoImageProcessor,
            AutoModelForImageTextToText,
            AutoTokenizer,
            LlavaProcessor,
        )

        model = load_whole(AutoModelForImageTextToText, folder, loading)
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        if missing := sorted({MARK, WHOLE} - set(tokenizer.get_vocab())):
            raise SubjectError(f"its tokenizer lacks {' and '.join(missing)}, which stand around a picture")
        images = AutoImageProcessor.from_pretrained(folder, **FROM_FOLDER)
        # SmolVLM's own processor cannot be made without a reader of videos, which needs torchvision.
        processor = LlavaProcessor(images, tokenizer)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    @property
    def decoder(self) -> torch.nn.Module:
        """The language model without its head."""
        return self.model.model.text_model

    @property
    def connectors(self) -> tuple[torch.nn.Module, ...]:
        """See `VisionLanguageModel.connectors`."""
        return (self.model.model.connector,)

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`; marks enclose the image."""
        enclosed = f"{MARK}{WHOLE}{self.image_token}{MARK}"
        written = super().texts(prompts, with_image, as_chat)
        return [text.replace(self.image_token, enclosed) for text in written]

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`."""
        return self.tokens_of(self.model.config.vision_config.image_size)

    def tokens_of(self, pixels: int) -> tuple[int, int]:
        """Return rows and columns of the tokens of a square of so many pixels, after pixel shuffle."""
        config = self.model.config
        side = pixels // config.vision_config.patch_size // config.scale_factor
        return side, side

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; a picture is one tile."""
        reader = self.processor.image_processor
        return reader([[image] for image in images], do_image_splitting=False, return_tensors="pt")

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`."""
        tower = self.model.model.vision_model
        found = self.model.get_image_features(
            pixels.pixel_values.to(tower.device, tower.dtype),
            pixels.pixel_attention_mask.to(tower.device),
            return_dict=True,
        )
        grid = self.tokens_of(pixels.pixel_values.shape[-1])
        return seen_features(list(found.pooler_output), [grid] * len(images))

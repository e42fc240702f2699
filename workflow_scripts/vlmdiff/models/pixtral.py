"""Pixtral and Mistral 3: pictures at their own proportions, a token behind each row of image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlmdiff.models.batch import Seen
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import USUAL_SIDE, VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

# Behind each row of image tokens but the last, and behind that one.
ROW, END = "[IMG_BREAK]", "[IMG_END]"


class Pixtral(VisionLanguageModel):
    """Pixtral's tower, a two-layer projector, a Mistral; Mistral 3 first merges squares of patches.

    The number of image tokens follows the picture, up to the longest edge that the checkpoint's image
    processor names. `[IMG_BREAK]` counts neither as image nor as text, `[IMG_END]` as text.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, processor: ProcessorMixin, fingerprint: str, image_id: int
    ) -> None:
        super().__init__(name, model, processor, fingerprint, image_id)
        self.row_id, self.end_id = self.tokenizer.convert_tokens_to_ids([ROW, END])
        self.break_ids = (self.row_id,)

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> Pixtral:
        """See `Subject.load`."""
        from transformers import (
            AutoImageProcessor,
            AutoModelForImageTextToText,
            AutoTokenizer,
            LlavaProcessor,
        )

        model = load_whole(AutoModelForImageTextToText, folder, loading)
        # Files written before transformers 5 cut words at other places than the models were trained with.
        tokenizer = AutoTokenizer.from_pretrained(folder, fix_mistral_regex=True, **FROM_FOLDER)
        if missing := sorted({ROW, END} - set(tokenizer.get_vocab())):
            raise SubjectError(
                f"its tokenizer lacks {' and '.join(missing)}, which stand behind an image's rows"
            )
        images = AutoImageProcessor.from_pretrained(folder, **FROM_FOLDER)
        # Pixtral's own processor cannot be made without torchvision.
        processor = LlavaProcessor(images, tokenizer)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    @property
    def side(self) -> int:
        """Pixels along each side of an image token."""
        config = self.model.config
        return config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)

    @property
    def blank_side(self) -> int:
        """See `VisionLanguageModel.blank_side`; the tower takes any size, and its largest is slow."""
        return min(super().blank_side, USUAL_SIDE)

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`."""
        from transformers.image_utils import ChannelDimension
        from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

        limits = self.processor.image_processor.size
        height, width = get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (size[1], size[0], 3)),  # of which only the shape is read
            limits["longest_edge"] or (limits["height"], limits["width"]),
            self.side,
            ChannelDimension.LAST,
        )
        return height // self.side, width // self.side

    def placed(self, rows: int, columns: int) -> list[int]:
        """See `VisionLanguageModel.placed`; each row has a token behind it."""
        return [*([*[self.image_id] * columns, self.row_id] * rows)[:-1], self.end_id]

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; sides are whole image tokens."""
        return self.processor.image_processor(list(images), patch_size=self.side, return_tensors="pt")

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`; picture by picture, since a mask of all at once would be large."""
        tower, features = self.model.model.vision_tower, []
        for picture, size in zip(pixels.pixel_values, pixels.image_sizes, strict=True):
            own = picture[None, :, : size[0], : size[1]].to(tower.device, tower.dtype)
            found = self.model.get_image_features(own, image_sizes=size[None], return_dict=True)
            features += found.pooler_output
        return seen_features(features, (pixels.image_sizes // self.side).tolist())

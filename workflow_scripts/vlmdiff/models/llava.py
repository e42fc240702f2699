"""LLaVA as transformers publishes it: `LlavaForConditionalGeneration`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlmdiff.models.batch import Seen
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    from PIL.Image import Image


class Llava(VisionLanguageModel):
    """CLIP tower, two-layer projector, language model; every image takes the same number of tokens."""

    model_types = ("llava",)

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> Llava:
        """See `Subject.load`."""
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        model = load_whole(LlavaForConditionalGeneration, folder, loading)
        processor = AutoProcessor.from_pretrained(folder, **FROM_FOLDER)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`; a CLS token that is kept makes the image one row."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        whole = self.model.config.vision_feature_select_strategy == "full"
        return (1, side * side + 1) if whole else (side, side)

    def view_of(self, size: Size) -> tuple[float, float, float, float]:
        """See `VisionLanguageModel.view_of`; CLIP's processor cuts a square out of the middle."""
        reader = self.processor.image_processor
        cropped = reader.do_center_crop and reader.do_resize and reader.size.get("shortest_edge")
        return centred_square(size, min(size)) if cropped else (0.0, 0.0, 1.0, 1.0)

    def see(self, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.see`."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").pixel_values
        tower = self.model.model.vision_tower
        found = self.model.get_image_features(
            pixel_values=pixels.to(tower.device, tower.dtype), return_dict=True
        )
        features = torch.cat(list(found.pooler_output))
        return Seen(features, torch.tensor([self.grid_of(image.size) for image in images]))


def centred_square(size: Size, side: int) -> tuple[float, float, float, float]:
    """Return the edges of a square of `side` pixels in the middle of an image, as fractions of its sides."""
    across, down = side / size[0], side / size[1]
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2

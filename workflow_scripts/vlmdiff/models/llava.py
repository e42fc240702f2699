"""LLaVA as transformers publishes it: `LlavaForConditionalGeneration`."""

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


class Llava(VisionLanguageModel):
    """Vision tower, two-layer projector, language model; every image takes the same number of tokens."""

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> Llava:
        """See `Subject.load`."""
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        model = load_whole(LlavaForConditionalGeneration, folder, loading)
        processor = AutoProcessor.from_pretrained(folder, **FROM_FOLDER)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`; with a CLS token or registers it is one row."""
        return self.probed_grid

    def view_of(self, size: Size) -> tuple[float, float, float, float]:
        """See `VisionLanguageModel.view_of`; a square is cut out of the middle, of Dinov2 a smaller one."""
        reader = self.processor.image_processor
        # SigLIP's processor knows no cropping, and only LLaVA's own makes a square around a picture first.
        crops = getattr(reader, "do_center_crop", False)
        pads = getattr(reader, "do_pad", False) and hasattr(reader, "pad_to_square")
        if not crops:
            return centred_square(size, max(size)) if pads else (0.0, 0.0, 1.0, 1.0)
        side, told = reader.crop_size["height"], reader.size
        edge = told.get("shortest_edge") or (pads and told["height"])
        if reader.do_resize and edge:
            side = side * (max if pads else min)(size) / edge
        elif reader.do_resize:
            size = told["width"], told["height"]
        return centred_square(size, side)

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`."""
        values = pixels.pixel_values
        tower, patch = self.model.model.vision_tower, self.model.config.vision_config.patch_size
        # LLaVA-NeXT takes the sizes that pictures had, and its processor tells them.
        sizes = {"image_sizes": pixels.image_sizes} if "image_sizes" in pixels else {}
        found = self.model.get_image_features(
            pixel_values=values.to(tower.device, tower.dtype), return_dict=True, **sizes
        )
        grid = values.shape[-2] // patch, values.shape[-1] // patch
        return seen_features(list(found.pooler_output), [grid] * len(images), self.unplaced)


def centred_square(size: Size, side: int | float) -> tuple[float, float, float, float]:
    """Return the edges of a square of `side` pixels in the middle of an image, as fractions of its sides."""
    across, down = side / size[0], side / size[1]
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2

"""LLaVA-NeXT and LLaVA-OneVision as transformers publishes them: one view of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.llava import Llava
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature

# `image_grid_pinpoints` of a model whose pictures have no tiles: the one resolution has room for none.
NO_TILES = [[0, 0]]
NO_VIDEO = "a sample shows one picture or none"


class LlavaNext(Llava):
    """A LLaVA that ends an image with a learned token, `image_newline`, and could see tiles as well.

    A picture is shown as a whole, without its enlarged tiles: then every token but the last has one place
    in the picture, pictures have equally many tokens, and a mean image exists. Transformers packs a
    picture that has one view alike (`pack_image_features`), as OneVision was trained to see several.
    """

    unplaced: ClassVar[int] = 1

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> LlavaNext:
        """See `Subject.load`."""
        from transformers import (
            AutoImageProcessor,
            AutoModelForImageTextToText,
            AutoTokenizer,
            LlavaProcessor,
        )

        model = load_whole(AutoModelForImageTextToText, folder, loading)
        model.config.image_grid_pinpoints = NO_TILES
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        images = AutoImageProcessor.from_pretrained(folder, **FROM_FOLDER)
        # OneVision's own processor cannot be made without a reader of videos, which needs torchvision.
        processor = LlavaProcessor(images, tokenizer)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    @property
    def placeholders(self) -> dict[str, tuple[str, str]]:
        """See `VisionLanguageModel.placeholders`; OneVision has one for videos too."""
        video = getattr(self.model.config, "video_token_id", None)
        token = None if video is None else self.tokenizer.convert_ids_to_tokens(video)
        # The first tokenizers of OneVision lack it.
        more = {} if token is None else {token: ("its video placeholder", NO_VIDEO)}
        return super().placeholders | more

    def view_of(self, size: Size) -> tuple[float, float, float, float]:
        """See `VisionLanguageModel.view_of`; the whole picture, squeezed into a square."""
        return 0.0, 0.0, 1.0, 1.0

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; the first view is the whole picture, and tiles are left out."""
        side = self.blank_side
        # Of the size of one tile, so that no more are cut out of a picture.
        pixels = self.processor.image_processor(
            list(images), image_grid_pinpoints=[[side, side]], return_tensors="pt"
        )
        pixels["pixel_values"] = pixels["pixel_values"][:, :1]
        return pixels

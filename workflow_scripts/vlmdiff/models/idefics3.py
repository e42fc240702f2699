"""Idefics3 and SmolVLM: a SigLIP tower, pixel shuffle, a Llama as decoder; pictures whole, or cut as well."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vlmdiff.models.batch import Seen
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint, with_tiles
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

# Around the tokens of a picture, and before those of a picture as a whole, in contrast to a tile's.
MARK, WHOLE = "<fake_token_around_image>", "<global-img>"
# Before the tokens of a tile; rows and columns are counted from one.
TILE = "<row_{row}_col_{column}>"


class Idefics3(VisionLanguageModel):
    """SigLIP tower, a connector that joins squares of patches, language model.

    Without `tiles` a picture is shown as a whole (`do_image_splitting: false`): then every token has one
    place in the picture, pictures have equally many tokens, and a mean image exists. With them it is also
    cut, as the checkpoint's image processor does it, and its tiles come first. Their tokens have places in
    the picture; those of the whole picture, a second view, have none. What stands between two views is
    neither image nor text.

    Attributes:
        tiles: whether pictures are cut.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        fingerprint: str,
        image_id: int,
        tiles: bool = False,
    ) -> None:
        super().__init__(name, model, processor, fingerprint, image_id)
        self.tiles = tiles
        if tiles:
            self.fingerprint = with_tiles(fingerprint)
            self.break_ids = self.tile_ids()

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
        fingerprint = model_fingerprint(folder)
        return cls(name, model, processor, fingerprint, model.config.image_token_id, loading.tiles)

    @property
    def decoder(self) -> torch.nn.Module:
        """The language model without its head."""
        return self.model.model.text_model

    @property
    def connectors(self) -> tuple[torch.nn.Module, ...]:
        """See `VisionLanguageModel.connectors`."""
        return (self.model.model.connector,)

    @property
    def view(self) -> tuple[int, int]:
        """Rows and columns of the tokens of a tile, or of a picture that is shown as a whole."""
        return self.tokens_of(self.model.config.vision_config.image_size)

    def tile_ids(self) -> tuple[int, ...]:
        """Return the tokens that stand before tiles, of all rows and columns that there may be.

        Raises:
            SubjectError: the tokenizer lacks one.
        """
        most, known = max(self.cut((1, 1))), self.tokenizer.get_vocab()
        marks = [TILE.format(row=row + 1, column=column + 1) for row, column in np.ndindex(most, most)]
        if missing := [mark for mark in marks if mark not in known]:
            raise SubjectError(
                f"its tokenizer lacks {missing[0]}, which stands before a tile, expected all of {most} rows "
                "and columns; leave `tiles` out of the model's entry, or use the tokenizer and the processor "
                "files that were published with it"
            )
        return tuple(known[mark] for mark in marks)

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`; marks enclose the image."""
        enclosed = f"{MARK}{WHOLE}{self.image_token}{MARK}"
        if self.tiles:  # what is the first view follows from the picture's size: see `placed`
            enclosed = enclosed.replace(WHOLE, "")
        written = super().texts(prompts, with_image, as_chat)
        return [text.replace(self.image_token, enclosed) for text in written]

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`; over all tiles."""
        (down, across), (rows, columns) = self.cut(size) if self.tiles else (1, 1), self.view
        return down * rows, across * columns

    def cut(self, size: Size) -> tuple[int, int]:
        """Return rows and columns of the tiles of an image of `size` (width, height) pixels.

        It is resized to the longest edge that the checkpoint's image processor names, then to whole tiles.
        """
        from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

        reader = self.processor.image_processor
        tile, (width, height) = reader.max_image_size["longest_edge"], size
        shape = np.broadcast_to(np.uint8(0), (3, height, width))  # of which only the shape is read
        height, width = get_resize_output_image_size(shape, reader.size["longest_edge"])
        # The longer side first: the other one follows from it, through rounded numbers.
        if width >= height:
            across = ceil(width / tile)
            return ceil(int(across * tile / (width / height)) / tile), across
        down = ceil(height / tile)
        return down, ceil(int(down * tile * (width / height)) / tile)

    def placed(self, rows: int, columns: int) -> list[int]:
        """See `VisionLanguageModel.placed`; each view begins with the mark that tells which one it is."""
        if not self.tiles:
            return super().placed(rows, columns)
        down, across = rows // self.view[0], columns // self.view[1]
        tokens = self.image_token * (self.view[0] * self.view[1])
        whole = f"{WHOLE}{tokens}"
        if down * across > 1:
            lines = (
                MARK.join(TILE.format(row=row, column=column) + tokens for column in range(1, across + 1))
                for row in range(1, down + 1)
            )
            whole = f"\n{MARK}".join(lines) + f"\n\n{MARK}{whole}"
        return self.prompts.encode([whole])[0]

    def tokens_of(self, pixels: int) -> tuple[int, int]:
        """Return rows and columns of the tokens of a square of so many pixels, after pixel shuffle."""
        config = self.model.config
        side = pixels // config.vision_config.patch_size // config.scale_factor
        return side, side

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; with `tiles`, their rows and columns too (0 of a whole picture)."""
        reader, nested = self.processor.image_processor, [[image] for image in images]
        if self.tiles:
            return reader(nested, do_image_splitting=True, return_row_col_info=True, return_tensors="pt")
        return reader(nested, do_image_splitting=False, return_tensors="pt")

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`."""
        tower = self.model.model.vision_model
        found = self.model.get_image_features(
            pixels.pixel_values.to(tower.device, tower.dtype),
            pixels.pixel_attention_mask.to(tower.device),
            return_dict=True,
        )
        grid = self.tokens_of(pixels.pixel_values.shape[-1])
        if not self.tiles:
            return seen_features(list(found.pooler_output), [grid] * len(images))
        cut = torch.tensor([pixels.rows, pixels.cols]).reshape(2, -1).T
        view, tiles = torch.tensor(grid), cut.clamp(min=1)
        second = view.prod() * (cut.prod(dim=1) > 0)
        return Seen(torch.cat(list(found.pooler_output)), tiles * view, unplaced=second, tiles=tiles)

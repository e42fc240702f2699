"""What all families of vision-language models share: prompts with image placeholders, images, embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.models.batch import Batch, Seen, make_batch
from vlmdiff.models.chat import chat_texts
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.subject import Size, Subject

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel, ProcessorMixin


class VisionLanguageModel(Subject):
    """A vision tower, a projector and a language model.

    A family says how a prompt is written (`texts`), how many tokens an image takes (`grid_of`) and
    what the tower makes of images (`see`); some also run their decoder in their own way. Batches may
    mix samples with and without images.

    Attributes:
        processor: the checkpoint's processor.
        image_id: token that stands for one image token.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, processor: ProcessorMixin, fingerprint: str, image_id: int
    ) -> None:
        super().__init__(name, model, processor.tokenizer, fingerprint)
        self.processor = processor
        self.image_id = image_id

    @property
    def decoder(self) -> torch.nn.Module:
        """The language model without its head."""
        return self.model.model.language_model

    @abstractmethod
    def grid_of(self, size: Size) -> tuple[int, int]:
        """Return rows and columns of the tokens of an image of `size` (width, height) pixels."""

    def view_of(self, size: Size) -> tuple[float, float, float, float]:
        """Return which part of an image of `size` the tokens cover.

        Left, top, right and bottom edge as fractions of width and height; beyond 0 and 1 where the
        image is padded, within where it is cropped.
        """
        return 0.0, 0.0, 1.0, 1.0

    @abstractmethod
    def see(self, images: Sequence[Image]) -> Seen:
        """Run the vision tower and the projector on images, on the model's device."""

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """Write prompts as the model expects them, with one image placeholder where there is an image."""
        if not as_chat or not self.processor.chat_template:
            return [
                self.image_token * shown + prompt for prompt, shown in zip(prompts, with_image, strict=True)
            ]
        chats = [user_turn(prompt, shown) for prompt, shown in zip(prompts, with_image, strict=True)]
        return chat_texts(self.name, self.processor, chats)

    @property
    def image_token(self) -> str:
        """The placeholder of an image in text."""
        return self.tokenizer.convert_ids_to_tokens(self.image_id)

    @torch.no_grad()
    def assemble(
        self, rows: Sequence[Sequence[int]], images: Sequence[Image | None], as_chat: bool = True
    ) -> Batch:
        """See `Subject.assemble`."""
        shown = [image for image in images if image is not None]
        seen = self.see(shown) if shown else None
        self.check_seen(seen, [self.grid_of(image.size) for image in shown])
        return make_batch(rows, self.pad_id, self.bos_id, self.image_id, seen).to(self.device)

    def rows(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[list[int]]:
        """See `Subject.rows`; raw text follows its image, if there is one."""
        rows = self.encode(self.texts(prompts, [size is not None for size in sizes], as_chat))
        grids = [None if size is None else self.grid_of(size) for size in sizes]
        return [self.expanded(row, grid) for row, grid in zip(rows, grids, strict=True)]

    def embed(self, batch: Batch) -> Float[Tensor, "samples sequence d_model"]:
        """See `Subject.embed`."""
        places = (batch.input_ids == self.image_id).unsqueeze(-1)
        # The placeholder may lie outside the vocabulary; its embedding is never used.
        embeds = self.model.get_input_embeddings()(batch.input_ids.masked_fill(places[..., 0], self.pad_id))
        if batch.seen is None:
            return embeds
        return embeds.masked_scatter(places, batch.seen.features.to(embeds))

    def expanded(self, row: Sequence[int], grid: tuple[int, int] | None) -> list[int]:
        """Repeat the image placeholder of a row of tokens, one for each image token.

        Raises:
            SubjectError: the prompt itself contains the placeholder.
        """
        expected = 0 if grid is None else 1
        if list(row).count(self.image_id) != expected:
            raise SubjectError(
                f"model '{self.name}': found {list(row).count(self.image_id)} image placeholders in a prompt "
                f"with {expected} images; remove '{self.image_token}' from the prompts"
            )
        if grid is None:
            return list(row)
        at = list(row).index(self.image_id)
        return [*row[:at], *[self.image_id] * (grid[0] * grid[1]), *row[at + 1 :]]

    def check_seen(self, seen: Seen | None, grids: Sequence[tuple[int, int]]) -> None:
        """Refuse a processor that cuts images otherwise than `grid_of` says."""
        found = [] if seen is None else [tuple(grid) for grid in seen.grids.tolist()]
        if found != list(grids):
            raise SubjectError(
                f"model '{self.name}': its processor cuts images into {found} tokens, its configuration "
                f"says {list(grids)}; use the processor files that were published with the checkpoint"
            )


def user_turn(prompt: str, with_image: bool) -> list[dict[str, Any]]:
    """Return a conversation of one user turn: the image, if any, before the text."""
    image = [{"type": "image"}] if with_image else []
    return [{"role": "user", "content": [*image, {"type": "text", "text": prompt}]}]

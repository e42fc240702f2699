"""What all families of vision-language models share: prompts with image placeholders, images, embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.models.batch import Batch, Seen, make_batch
from vlmdiff.models.chat import user_turn
from vlmdiff.models.errors import PromptError, SubjectError, of_machine, said, showing
from vlmdiff.models.subject import Size, Subject

# Beyond it a picture is a line: resized to a tower's height it would fill memory, and Qwen refuses it.
LARGEST_RATIO = 200
PICTURE_REMEDY = "replace the picture, or leave the sample out"
PROCESSOR_REMEDY = "use the processor files that were published with the checkpoint"
OWN_IMAGE = "an image has its own"
# Side in pixels of a blank picture for a tower that names no size of its own.
USUAL_SIDE = 224

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin


class VisionLanguageModel(Subject):
    """A vision tower, a projector and a language model.

    A family says how a prompt is written (`texts`), how many tokens an image takes (`grid_of`) and
    what the tower makes of images (`look`); some also run their decoder in their own way. Batches may
    mix samples with and without images.

    Attributes:
        processor: the checkpoint's processor.
        image_id: token that stands for one image token.
        unplaced: see `Seen`.
    """

    unplaced: ClassVar[int] = 0

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

    @property
    def connectors(self) -> tuple[torch.nn.Module, ...]:
        """What makes the language model's embeddings of what the tower has seen."""
        return (self.model.model.multi_modal_projector,)

    @abstractmethod
    def grid_of(self, size: Size) -> tuple[int, int]:
        """Return rows and columns of the tokens of an image of `size` (width, height) pixels."""

    def view_of(self, size: Size) -> tuple[float, float, float, float]:
        """Return which part of an image of `size` the tokens cover.

        Left, top, right and bottom edge as fractions of width and height; beyond 0 and 1 where the
        image is padded, within where it is cropped.
        """
        return 0.0, 0.0, 1.0, 1.0

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """Return what the checkpoint's processor makes of images; it needs no device, and may run ahead."""
        return self.processor.image_processor(list(images), return_tensors="pt")

    @abstractmethod
    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """Run the vision tower and the projector on what was read of images, on the model's device."""

    def see(self, images: Sequence[Image]) -> Seen:
        """Read images and look at them."""
        return self.look(self.read(images), images)

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`."""
        if not as_chat:
            return [
                self.image_token * shown + prompt for prompt, shown in zip(prompts, with_image, strict=True)
            ]
        self.chat.check()
        return self.chat.write(
            [user_turn(prompt, shown) for prompt, shown in zip(prompts, with_image, strict=True)]
        )

    def body(self, index: int, prompt: str, document: bool) -> str:
        """See `Subject.body`.

        Raises:
            PromptError: the prompt itself contains a placeholder.
        """
        for token, (what, why) in self.placeholders.items():
            if token in prompt:
                raise PromptError(
                    index,
                    f"model '{self.name}': found {what} in the prompt, expected none, because {why}; remove "
                    f"'{token}' from the prompts",
                )
        return super().body(index, prompt, document)

    @property
    def placeholders(self) -> dict[str, tuple[str, str]]:
        """Tokens that stand for what is no text: what each is, and why no prompt may contain it."""
        return {self.image_token: ("its image placeholder", OWN_IMAGE)}

    @property
    def image_token(self) -> str:
        """The placeholder of an image in text."""
        return self.tokenizer.convert_ids_to_tokens(self.image_id)

    @torch.no_grad()
    def assemble(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Image | None],
        as_chat: bool = True,
        pixels: Any = None,
    ) -> Batch:
        """See `Subject.assemble`.

        Raises:
            PromptError: an image that cannot be read, or that has other tokens than its row has places.
        """
        shown = [index for index, image in enumerate(images) if image is not None]
        seen = self.look_at(images, shown, pixels) if shown else None
        self.check_seen(rows, seen, shown)
        marks = (self.pad_id, self.bos_id, self.image_id)
        return make_batch(rows, *marks, seen, break_ids=self.break_ids).to(self.device)

    def look_at(
        self, images: Sequence[Image | None], shown: Sequence[int], pixels: BatchFeature | None = None
    ) -> Seen:
        """Run the tower on the images at some places of a batch; if it fails, name the first one at fault.

        Raises:
            PromptError: an image that cannot be seen.
            SubjectError: no image can.
        """
        try:
            pictures = [images[index] for index in shown]
            return self.see(pictures) if pixels is None else self.look(pixels, pictures)
        except Exception as error:
            if of_machine(error):
                raise
            self.see_blank()
            for index in shown:
                with showing(self.name, index, unreadable(images[index].size), PICTURE_REMEDY):
                    self.see([images[index]])
            raise

    def embed(self, batch: Batch) -> Float[Tensor, "samples sequence d_model"]:
        """See `Subject.embed`."""
        places = (batch.input_ids == self.image_id).unsqueeze(-1)
        # The placeholder may lie outside the vocabulary; its embedding is never used.
        embeds = self.model.get_input_embeddings()(batch.input_ids.masked_fill(places[..., 0], self.pad_id))
        if batch.seen is None:
            return embeds
        return embeds.masked_scatter(places, batch.seen.features.to(embeds))

    def expanded(self, index: int, row: list[int], size: Size | None) -> list[int]:
        """See `Subject.expanded`: put all tokens of the image into the place of its placeholder.

        Raises:
            PromptError: an image that is too narrow, or not exactly one placeholder an image.
        """
        found, expected = row.count(self.image_id), int(size is not None)
        if found != expected:
            raise PromptError(
                index,
                f"model '{self.name}': found {found} image placeholders in a prompt with {expected} images; "
                f"correct the chat template, which writes '{self.image_token}'",
            )
        if size is None:
            return row
        if max(size) > LARGEST_RATIO * min(size):
            raise PromptError(
                index,
                f"model '{self.name}': found a picture of {by(size)} pixels, expected sides of at most "
                f"{LARGEST_RATIO} to 1; {PICTURE_REMEDY}",
            )
        with showing(self.name, index, unreadable(size), PICTURE_REMEDY):
            rows, columns = self.grid_of(size)
        at = row.index(self.image_id)
        return [*row[:at], *self.placed(rows, columns), *row[at + 1 :]]

    def placed(self, rows: int, columns: int) -> list[int]:
        """Return the tokens that take the place of an image's placeholder in a prompt."""
        return [self.image_id] * (rows * columns + self.unplaced)

    def check_seen(self, rows: Sequence[Sequence[int]], seen: Seen | None, shown: Sequence[int]) -> None:
        """Refuse images that have more or fewer tokens than their rows have places for.

        Raises:
            PromptError: naming the first of them.
        """
        counts = dict(zip(shown, [] if seen is None else seen.counts, strict=True))
        for index, row in enumerate(rows):
            places, found = list(row).count(self.image_id), counts.get(index, 0)
            if places != found:
                raise PromptError(
                    index,
                    f"model '{self.name}': its tower makes {found} tokens of the picture, its prompt has "
                    f"places for {places}; {PROCESSOR_REMEDY}",
                )

    @property
    def blank_side(self) -> int:
        """Side in pixels of a picture that anything that sees can see: the tower's own, if it has one."""
        size = getattr(self.model.config.vision_config, "image_size", USUAL_SIDE)
        return size if isinstance(size, int) else max(size)

    @torch.no_grad()
    def see_blank(self) -> Seen:
        """See a blank picture of the tower's own size, which anything that sees can see.

        Raises:
            SubjectError: it fails, so processor and tower do not fit each other.
        """
        from PIL import Image as Images

        side = self.blank_side
        try:
            return self.see([Images.new("RGB", (side, side))])
        except Exception as error:  # processors and towers fail in many ways
            if of_machine(error):
                raise
            raise SubjectError(
                f"model '{self.name}': it cannot see even a blank picture of {by((side, side))} pixels "
                f"({said(error)}); {PROCESSOR_REMEDY}, or if these are there, another checkpoint"
            ) from error

    @cached_property
    def probed_grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens, where a tower makes equally many of all: seen, not said.

        A tower may add registers to its patches, or have no CLS token to take away.
        """
        rows, columns = self.see_blank().grids[0].tolist()
        return rows, columns


def unreadable(size: Size) -> str:
    """Say which picture cannot be read."""
    return f"the picture of {by(size)} pixels cannot be read"


def by(size: Size) -> str:
    """Write width and height."""
    return f"{size[0]} x {size[1]}"


def seen_features(
    features: Sequence[Float[Tensor, "_ d_model"]],
    grids: Sequence[Sequence[int]],
    unplaced: int = 0,
    **others: Any,
) -> Seen:
    """Put what a tower made of some images together; an image whose tokens fill no such grid is one row.

    Args:
        features: of each image.
        grids: rows and columns of the patches of each image.
        unplaced, others: see `Seen`.
    """
    placed = [len(own) - unplaced for own in features]
    counted = [
        [rows, columns] if rows * columns == count else [1, count]
        for count, (rows, columns) in zip(placed, grids, strict=True)
    ]
    return Seen(torch.cat(list(features)), torch.tensor(counted), unplaced=unplaced, **others)

"""Vision-language models of transformers' `LlavaForConditionalGeneration`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmdiff.models.batch import Batch, make_batch
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.subject import Subject

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import LlavaForConditionalGeneration, ProcessorMixin


class Llava(Subject):
    """A LLaVA: vision tower, projector and language model.

    Batches may mix samples with and without images; `Batch.pixel_values` then holds the images
    that there are, in the order of their samples.
    """

    def __init__(
        self, name: str, model: LlavaForConditionalGeneration, processor: ProcessorMixin, fingerprint: str
    ) -> None:
        super().__init__(name, model, processor.tokenizer, fingerprint)
        self.processor = processor
        self.image_id: int = model.config.image_token_id

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.model.model.language_model

    def prepare(self, prompts: Sequence[str], images: Sequence[Image | None], as_chat: bool = True) -> Batch:
        """See `Subject.prepare`; raw text follows its image, if there is one."""
        texts = self.texts(prompts, [image is not None for image in images], as_chat)
        shown = [image for image in images if image is not None]
        pixels = self.pixels(shown) if shown else None
        rows = self.encode(
            [text.replace(self.image_token, self.image_token * self.image_tokens) for text in texts]
        )
        batch = make_batch(rows, self.pad_id, self.tokenizer.bos_token_id, self.image_id, pixels)
        self.check_image_tokens(batch, len(shown))
        return batch.to(self.device)

    def lengths(self, prompts: Sequence[str], with_image: bool, as_chat: bool = True) -> list[int]:
        """See `Subject.lengths`."""
        rows = self.encode(self.texts(prompts, [with_image] * len(prompts), as_chat))
        return [len(row) + with_image * (self.image_tokens - 1) for row in rows]

    def embed(self, batch: Batch) -> Tensor:
        """See `Subject.embed`."""
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        if batch.pixel_values is None:
            return embeds
        features = self.model.get_image_features(
            pixel_values=batch.pixel_values.to(embeds.dtype), return_dict=True
        ).pooler_output
        places = (batch.input_ids == self.image_id).unsqueeze(-1)
        return embeds.masked_scatter(places, torch.cat(list(features)).to(embeds.dtype))

    @property
    def image_token(self) -> str:
        """The placeholder of an image in text."""
        return self.tokenizer.convert_ids_to_tokens(self.image_id)

    @property
    def image_tokens(self) -> int:
        """Tokens that one image takes: the tower's patches, and its CLS token if that is kept."""
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return patches + (self.model.config.vision_feature_select_strategy == "full")

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """Preprocess images: (images, channels, height, width)."""
        return self.processor.image_processor(list(images), return_tensors="pt").pixel_values

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """Put prompts, after an image placeholder where there is an image, into the chat template."""
        if not as_chat or not self.processor.chat_template:
            return [
                self.image_token * shown + prompt for prompt, shown in zip(prompts, with_image, strict=True)
            ]
        chats = [user_turn(prompt, shown) for prompt, shown in zip(prompts, with_image, strict=True)]
        return self.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)

    def check_image_tokens(self, batch: Batch, images: int) -> None:
        """Refuse prompts that themselves contain the image placeholder."""
        found, expected = int((batch.input_ids == self.image_id).sum()), images * self.image_tokens
        if found != expected:
            raise SubjectError(
                f"model '{self.name}': found {found} image tokens for {images} images, expected {expected}; "
                f"remove '{self.image_token}' from the prompts"
            )


def user_turn(prompt: str, with_image: bool) -> list[dict[str, Any]]:
    """Return a conversation of one user turn: the image, if any, before the text."""
    image = [{"type": "image"}] if with_image else []
    return [{"role": "user", "content": [*image, {"type": "text", "text": prompt}]}]

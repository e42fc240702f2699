"""Gemma 3: image tokens see each other in both directions, all other tokens what is before them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from vlmdiff.activations.tokens import IMAGE
from vlmdiff.config.families import attention_problem
from vlmdiff.models.batch import Batch, Seen
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import OWN_IMAGE, VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, DynamicCache


class Gemma3(VisionLanguageModel):
    """SigLIP tower whose patches are pooled, one linear projector, Gemma 3.

    A picture is shown as a whole, without the crops of "pan and scan".
    """

    left_to_right = False

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> Gemma3:
        """See `Subject.load`."""
        from transformers import (
            AutoImageProcessor,
            AutoTokenizer,
            Gemma3ForConditionalGeneration,
            LlavaProcessor,
        )

        if problem := attention_problem("gemma3", loading.attention):
            raise SubjectError(problem)
        model = load_whole(Gemma3ForConditionalGeneration, folder, loading)
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        images = AutoImageProcessor.from_pretrained(folder, **FROM_FOLDER)
        # Gemma's own processor needs names of tokens that not every tokenizer_config.json brings.
        processor = LlavaProcessor(images, tokenizer)
        return cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)

    @property
    def marks(self) -> tuple[str, str]:
        """The tokens before and behind those of an image; a chat template writes the first alone."""
        config = self.model.config
        first, last = self.tokenizer.convert_ids_to_tokens([config.boi_token_index, config.eoi_token_index])
        return first, last

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`; marks and empty lines enclose the image."""
        first, last = self.marks
        enclosed = f"\n\n{first}{self.image_token}{last}\n\n"
        if not as_chat:
            return [enclosed * shown + prompt for prompt, shown in zip(prompts, with_image, strict=True)]
        return [text.replace(first, enclosed) for text in super().texts(prompts, with_image, as_chat)]

    @property
    def placeholders(self) -> dict[str, tuple[str, str]]:
        """See `VisionLanguageModel.placeholders`."""
        return {self.marks[0]: ("the mark of an image", OWN_IMAGE)} | super().placeholders

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`."""
        side = isqrt(self.model.config.mm_tokens_per_image)
        return side, side

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; no crops are taken."""
        return self.processor.image_processor(list(images), do_pan_and_scan=False, return_tensors="pt")

    def look(self, pixels: BatchFeature, images: Sequence[Image]) -> Seen:
        """See `VisionLanguageModel.look`."""
        tower = self.model.model.vision_tower
        found = self.model.get_image_features(
            pixels.pixel_values.to(tower.device, tower.dtype), return_dict=True
        )
        return seen_features(list(found.pooler_output), [self.grid_of(image.size) for image in images])

    def run_decoder(
        self,
        batch: Batch,
        embeds: Float[Tensor, "samples sequence d_model"],
        past: DynamicCache | None = None,
    ) -> Float[Tensor, "samples sequence d_model"]:
        """See `Subject.run_decoder`: image tokens see each other; no `past`."""
        output = self.model.model(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask,
            token_type_ids=(batch.token_type == IMAGE).long(),
            use_cache=False,
        )
        return output.last_hidden_state

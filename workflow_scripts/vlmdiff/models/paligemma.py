"""PaliGemma and PaliGemma 2: the whole prompt, image and text, attends in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.activations.tokens import BOS
from vlmdiff.config.families import attention_problem
from vlmdiff.models.batch import Batch, Seen
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size
from vlmdiff.models.vlm import PROCESSOR_REMEDY, VisionLanguageModel, seen_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, DynamicCache


class PaliGemma(VisionLanguageModel):
    """SigLIP tower, one linear projector, Gemma or Gemma 2.

    The prompt is `image tokens, BOS, text, newline`. Its tokens see each other in both directions; the
    model's own words see what is before them. Raw documents count as own words: a language model reads
    them so.
    """

    left_to_right = False

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> PaliGemma:
        """See `Subject.load`."""
        from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

        if problem := attention_problem("paligemma", loading.attention):
            raise SubjectError(problem)
        model = load_whole(PaliGemmaForConditionalGeneration, folder, loading)
        processor = AutoProcessor.from_pretrained(folder, **FROM_FOLDER)
        subject = cls(name, model, processor, model_fingerprint(folder), model.config.image_token_id)
        subject.check_resolution()
        return subject

    def check_resolution(self) -> None:
        """Refuse processor files of a checkpoint of another resolution.

        Raises:
            SubjectError: the processor makes other image tokens than the tower.
        """
        rows, columns = self.grid_of((0, 0))
        if self.processor.image_seq_length != rows * columns:
            raise SubjectError(
                f"the processor writes {self.processor.image_seq_length} image tokens, the tower makes "
                f"{rows * columns}; {PROCESSOR_REMEDY}"
            )

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`; BOS follows the image, a newline ends a prompt."""
        end = "\n" if as_chat else ""
        return [
            f"{self.image_token * shown}{self.tokenizer.bos_token}{prompt}{end}"
            for prompt, shown in zip(prompts, with_image, strict=True)
        ]

    def body(self, index: int, prompt: str, document: bool) -> str:
        """See `Subject.body`; a question, too, is written without its own BOS."""
        return super().body(index, prompt, document=True)

    def begun(self, row: Sequence[int], prompt: str, document: bool) -> list[int]:
        """See `Subject.begun`; the text already holds its BOS."""
        return list(row)

    def assemble(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Image | None],
        as_chat: bool = True,
        pixels: Any = None,
    ) -> Batch:
        """See `Subject.assemble`."""
        batch = super().assemble(rows, images, as_chat, pixels)
        if as_chat and self.chat.wanted:
            return batch
        # All that follows BOS is read from left to right.
        bos = (batch.token_type == BOS).int().argmax(dim=1)
        return replace(batch, generated=batch.last - bos)

    def grid_of(self, size: Size) -> tuple[int, int]:
        """See `VisionLanguageModel.grid_of`."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

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
        """See `Subject.run_decoder`: prefix attention, positions counted from 1; no `past`."""
        output = self.model.model(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask,
            token_type_ids=suffix_mask(batch),
            use_cache=False,
        )
        return output.last_hidden_state


def suffix_mask(batch: Batch) -> Tensor:
    """Mark with 1 the model's own words and padding, with 0 the prompt that sees itself as a whole."""
    position = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    return (position[None] > (batch.last - batch.generated)[:, None]).long()

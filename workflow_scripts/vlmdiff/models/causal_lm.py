"""Language models: any decoder-only model that transformers loads as `AutoModelForCausalLM`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vlmdiff.models.batch import Batch, make_batch
from vlmdiff.models.subject import Subject

if TYPE_CHECKING:
    from PIL.Image import Image


class CausalLM(Subject):
    """A language model. It cannot see: images of samples are left out, the text stays the same."""

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.model.model

    def prepare(self, prompts: Sequence[str], images: Sequence[Image | None], as_chat: bool = True) -> Batch:
        """See `Subject.prepare`."""
        rows = self.encode(self.texts(prompts, as_chat))
        return make_batch(rows, self.pad_id, self.tokenizer.bos_token_id).to(self.device)

    def lengths(self, prompts: Sequence[str], with_image: bool, as_chat: bool = True) -> list[int]:
        """See `Subject.lengths`."""
        return [len(row) for row in self.encode(self.texts(prompts, as_chat))]

    def embed(self, batch: Batch) -> Tensor:
        """See `Subject.embed`."""
        return self.model.get_input_embeddings()(batch.input_ids)

    def texts(self, prompts: Sequence[str], as_chat: bool) -> list[str]:
        """Put prompts into the chat template, if wanted and there is one."""
        if not as_chat or not self.tokenizer.chat_template:
            return list(prompts)
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return self.tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)

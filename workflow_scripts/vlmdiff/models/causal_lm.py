"""Language models: decoder-only models that transformers loads as `AutoModelForCausalLM`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vlmdiff.models.batch import Batch, make_batch
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.loading import FROM_FOLDER, Loading, load_whole
from vlmdiff.models.subject import Size, Subject

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import DynamicCache


class CausalLM(Subject):
    """A language model. It cannot see: images of samples are left out, the text stays the same."""

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> CausalLM:
        """See `Subject.load`."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = load_whole(AutoModelForCausalLM, folder, loading)
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        return cls(name, model, tokenizer, model_fingerprint(folder))

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        # Llama 4's own base model is the whole, head included.
        base = self.model.base_model
        return self.model.model if base is self.model else base

    def assemble(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Image | None],
        as_chat: bool = True,
        pixels: Any = None,
    ) -> Batch:
        """See `Subject.assemble`."""
        return make_batch(rows, self.pad_id, self.bos_id).to(self.device)

    def embed(self, batch: Batch) -> Tensor:
        """See `Subject.embed`."""
        return self.model.get_input_embeddings()(batch.input_ids)

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`; images are left out."""
        if not as_chat:
            return list(prompts)
        self.chat.check()
        return self.chat.write([[{"role": "user", "content": prompt}] for prompt in prompts])


class OwnDecoder(CausalLM):
    """The language model inside a vision-language model, shown text alone."""

    def __init__(self, whole: Subject) -> None:
        self.whole = whole
        super().__init__(whole.name, whole.model, whole.tokenizer, whole.fingerprint)
        self.chat, self.layout = whole.chat, whole.layout

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.whole.decoder

    @property
    def left_to_right(self) -> bool:
        """Whether no token sees a later one."""
        return self.whole.left_to_right

    def run_decoder(self, batch: Batch, embeds: Tensor, past: DynamicCache | None = None) -> Tensor:
        """See `Subject.run_decoder`; attention and positions are those of the whole model."""
        return self.whole.run_decoder(batch, embeds, past)

    def embed(self, batch: Batch) -> Tensor:
        """See `Subject.embed`."""
        return self.whole.embed(batch)

    def assemble(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Image | None],
        as_chat: bool = True,
        pixels: Any = None,
    ) -> Batch:
        """See `Subject.assemble`; images are left out."""
        return self.whole.assemble(rows, [None] * len(rows), as_chat)

    def rows(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[list[int]]:
        """See `Subject.rows`."""
        return self.whole.rows(prompts, [None] * len(prompts), as_chat)

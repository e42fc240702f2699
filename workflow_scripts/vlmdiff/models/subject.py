"""The interface through which every stage sees a model under study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmdiff.models.batch import Batch, token_types
from vlmdiff.models.chat import ChatFormat
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import Edit, record_inputs, record_outputs, stop_after, whole
from vlmdiff.models.layout import find_layout, head_width, part
from vlmdiff.models.logits import precise_logits
from vlmdiff.models.prompts import Prompts

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import DynamicCache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from vlmdiff.models.loading import Loading

Size = tuple[int, int]


class Subject(ABC):
    """A frozen model in evaluation mode, seen as a stack of decoder blocks.

    Layer `l` means decoder block `l`, counted from 0; its residual is the block's output.

    Attributes:
        name: name of the model in the config.
        model: the transformers model.
        tokenizer: its tokenizer.
        fingerprint: digest of weights and configuration, the same on every machine.
        chat: how conversations are written.
        layout: names of the decoder's parts.
        context: most tokens of a sequence (`context_of`); None where positions have no end.
        image_id: token that stands for one image token; None: the model cannot see.
        break_ids: tokens that stand between rows of image tokens, and are neither image nor text.
    """

    context_keys: ClassVar[tuple[str, ...]] = ("max_position_embeddings", "max_seq_len")
    # Whether no token sees a later one.
    left_to_right: ClassVar[bool] = True
    image_id: int | None = None
    break_ids: tuple[int, ...] = ()

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fingerprint: str
    ) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.chat = ChatFormat(name)
        self.layout = find_layout(name, self.decoder)
        config = model.config.get_text_config()
        self.d_model: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.context = context_of(config, self.context_keys)
        self.d_head: int = head_width(name, self.attention_output(0), self.n_heads)

    @classmethod
    @abstractmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> Subject:
        """Load a checkpoint of the family.

        Args:
            name: name of the model in the config.
            folder: folder of the checkpoint.
            loading: precision, device map, attention implementation.
        """

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The language model without its head: blocks, then the final norm (`vlmdiff.models.layout`)."""

    def prepare(self, prompts: Sequence[str], images: Sequence[Image | None], as_chat: bool = True) -> Batch:
        """Tokenize prompts, with their images, to a right-padded batch on the model's device.

        Args:
            prompts: one text a sample.
            images: one image, or None, a sample.
            as_chat: put the prompt into the model's chat format, with the generation prompt after it, unless
                the config says that the model has none; False: the raw text.
        """
        sizes = [None if image is None else image.size for image in images]
        return self.assemble(self.rows(prompts, sizes, as_chat), images, as_chat)

    @abstractmethod
    def assemble(
        self,
        rows: Sequence[Sequence[int]],
        images: Sequence[Image | None],
        as_chat: bool = True,
        pixels: Any = None,
    ) -> Batch:
        """Put tokenized prompts and their images into a right-padded batch on the model's device.

        Args:
            rows: the token ids of each prompt, as `rows` returns them.
            images: one image, or None, a sample.
            as_chat: as it was for `rows`.
            pixels: what `read` returned of the images that are there; None: they are read here.
        """

    def read(self, images: Sequence[Image]) -> Any:
        """Return what a vision tower is given of images; None of a model that cannot see."""
        return None

    def rows(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[list[int]]:
        """Return the token ids that each prompt will have, image tokens included; nothing runs.

        Args:
            prompts: one text a sample.
            sizes: (width, height) in pixels of each sample's image, or None.
            as_chat: see `prepare`.

        Raises:
            PromptError: a prompt, or the size of an image, that the model cannot be shown.
            SubjectError: the model has no chat format, and needs one.
        """
        document = not (as_chat and self.chat.wanted)
        bodies = [self.body(index, prompt, document) for index, prompt in enumerate(prompts)]
        encoded = self.prompts.encode(self.texts(bodies, [size is not None for size in sizes], not document))
        rows = [self.begun(row, prompt, document) for row, prompt in zip(encoded, prompts, strict=True)]
        rows = [self.expanded(index, row, size) for index, (row, size) in enumerate(zip(rows, sizes))]
        for index, row in enumerate(rows):
            self.prompts.check(index, row, self.context, document)
        return rows

    @abstractmethod
    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """Write prompts as the model expects them, with one image placeholder where there is an image."""

    @cached_property
    def prompts(self) -> Prompts:
        """How texts become tokens."""
        return Prompts(self.name, self.tokenizer, self.chat.template)

    def body(self, index: int, prompt: str, document: bool) -> str:
        """Return a prompt that holds no control tokens; `index` names it in errors."""
        return self.prompts.body(prompt, document)

    def begun(self, row: Sequence[int], prompt: str, document: bool) -> list[int]:
        """Return a row of tokens with what begins a sequence, once."""
        return self.prompts.begun(row, prompt, document)

    def expanded(self, index: int, row: list[int], size: Size | None) -> list[int]:
        """Return a row in which an image has all its tokens; models that cannot see leave it as it is."""
        return row

    def lengths(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[int]:
        """Return how many tokens each prompt will have; arguments as for `rows`."""
        return [len(row) for row in self.rows(prompts, sizes, as_chat)]

    def types(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[list[int]]:
        """Return the types of the tokens that each prompt will have; arguments as for `rows`."""

        def typed(row: list[int]) -> list[int]:
            ids = torch.tensor([row])
            types = token_types(ids, torch.ones_like(ids), self.bos_id, self.image_id, self.break_ids)
            return types[0].tolist()

        # One by one: beside the longest of a data set, every prompt would be as long.
        return [typed(row) for row in self.rows(prompts, sizes, as_chat)]

    @abstractmethod
    def embed(self, batch: Batch) -> Float[Tensor, "samples sequence d_model"]:
        """Return what enters block 0: token embeddings, projected image features in their places."""

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, and of all weights unless a device map spreads them."""
        return self.model.get_input_embeddings().weight.device

    @property
    def bos_id(self) -> int | None:
        """Token that begins a text; None if the tokenizer has none."""
        return self.tokenizer.bos_token_id

    @property
    def pad_id(self) -> int:
        """Token written into padding; never attended to."""
        return self.tokenizer.pad_token_id or 0

    def residuals(
        self,
        batch: Batch,
        layers: Sequence[int],
        embeds: Float[Tensor, "samples sequence d_model"] | None = None,
        keep: Edit = whole,
    ) -> dict[int, Tensor]:
        """Return the residual stream after each of `layers`; later blocks and the head do not run.

        Args:
            batch: the prompts.
            layers: blocks, in any order.
            embeds: what enters block 0 instead of `embed(batch)`.
            keep: what to return of each residual stream (samples, sequence, d_model); the rest of it is
                freed before the next block runs.

        Raises:
            SubjectError: a layer that the model does not have.
        """
        self.check_layers(layers)
        embeds = self.embed(batch) if embeds is None else embeds
        with (
            record_outputs({layer: self.block(layer) for layer in layers}, keep) as recorded,
            stop_after(self.block(max(layers))),
        ):
            self.run_decoder(batch, embeds)
        return {layer: recorded[layer] for layer in layers}

    def entering(
        self,
        batch: Batch,
        layers: Sequence[int],
        embeds: Float[Tensor, "samples sequence d_model"] | None = None,
    ) -> dict[int, Float[Tensor, "samples sequence d_model"]]:
        """Return the residual stream that enters each of `layers`.

        It is what left the block before, except where a model adds something between its blocks.
        """
        self.check_layers(layers)
        embeds = self.embed(batch) if embeds is None else embeds
        with (
            record_inputs({layer: self.block(layer) for layer in layers}) as recorded,
            stop_after(self.block(max(layers))),
        ):
            self.run_decoder(batch, embeds)
        return {layer: recorded[layer] for layer in layers}

    def final_logits(
        self,
        batch: Batch,
        embeds: Float[Tensor, "samples sequence d_model"] | None = None,
        past: DynamicCache | None = None,
    ) -> Float[Tensor, "samples vocabulary"]:
        """Return the logits at the last real token of each sample, the only ones computed.

        Args:
            batch, embeds, past: see `run_decoder`; without `embeds` what `embed` returns.
        """
        known = known_tokens(past)
        states = self.run_decoder(batch, self.embed(batch)[:, known:] if embeds is None else embeds, past)
        last = batch.last.to(states.device) - known
        logits = precise_logits(self.head, states[torch.arange(len(last), device=last.device), last])
        return as_published(logits, self.model.config.get_text_config())

    @property
    def head(self) -> nn.Module:
        """Linear layer from the final norm's output to logits."""
        return self.model.get_output_embeddings()

    @property
    def norm(self) -> nn.Module:
        """Norm between the last block and the head."""
        return part(self.decoder, self.layout.norm)

    @property
    def blocks(self) -> nn.ModuleList:
        """Decoder blocks."""
        return part(self.decoder, self.layout.blocks)

    def run_decoder(
        self, batch: Batch, embeds: Float[Tensor, "samples tokens d_model"], past: DynamicCache | None = None
    ) -> Float[Tensor, "samples tokens d_model"]:
        """Run all blocks and the final norm on given embeddings; padding is masked.

        Args:
            batch: the prompts.
            embeds: of all their tokens, or of those that `past` does not know.
            past: keys and values of the first tokens; those of the others are added.
        """
        output = self.decoder(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask,
            past_key_values=past,
            use_cache=past is not None,
        )
        return output.last_hidden_state

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers that the model does not have."""
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong or not layers:
            raise SubjectError(
                f"layers: found {wrong or 'none'}, but model '{self.name}' has blocks 0 to "
                f"{self.n_layers - 1}; change `layers` in the config"
            )

    def block(self, layer: int) -> nn.Module:
        """Decoder block; its output is the residual stream (samples, sequence, d_model)."""
        return self.blocks[layer]

    def attention(self, layer: int) -> nn.Module:
        """Self-attention of a block; its output is a tuple (output, weights or None)."""
        return part(self.block(layer), self.layout.attention)

    def mlp(self, layer: int) -> nn.Module:
        """MLP of a block."""
        return part(self.block(layer), self.layout.mlp)

    def writers(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """Modules whose outputs a block adds to the residual stream: for attention and for the MLP.

        Where a model normalises both once more before adding them, these norms.
        """
        attention, mlp = (part(self.block(layer), name) for name in self.layout.writers)
        return attention, mlp

    def attention_output(self, layer: int) -> nn.Module:
        """Output projection of attention; its input holds the heads side by side, `d_head` each."""
        return part(self.attention(layer), self.layout.projection)


def context_of(config: PretrainedConfig, keys: Sequence[str]) -> int | None:
    """Return the most tokens of a sequence; None where positions have no end.

    LongRoPE (Phi 3 and 4) turns all sequences of a batch by other angles once one of them is longer than
    those of the first training: beyond that, what a model makes of a sample depends on its neighbours.

    Args:
        config: of the language model.
        keys: what may tell it.
    """
    limits = [limit for key in keys if (limit := getattr(config, key, None))][:1]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limits.append(rope["original_max_position_embeddings"])
    return min(limits, default=None)


def known_tokens(past: DynamicCache | None) -> int:
    """Return of how many tokens of each sample keys and values are known."""
    return 0 if past is None else past.get_seq_length()


def as_published(logits: Float[Tensor, "n vocabulary"], config: PretrainedConfig) -> Tensor:
    """Do to the head's output what a model does: Gemma squashes its logits, Cohere and Granite scale them."""
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap

"""The interface through which every stage sees a model under study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmdiff.models.batch import Batch, token_types
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import Edit, record_inputs, record_outputs, stop_after, whole
from vlmdiff.models.logits import precise_logits

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
        model_types: `model_type` in config.json of the checkpoints that the family reads; empty: any.
    """

    model_types: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fingerprint: str
    ) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = model.config.get_text_config()
        self.d_model: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.d_head: int = getattr(config, "head_dim", None) or self.d_model // self.n_heads

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
        """The language model without its head: blocks in `.layers`, then the final norm."""

    def prepare(self, prompts: Sequence[str], images: Sequence[Image | None], as_chat: bool = True) -> Batch:
        """Tokenize prompts, with their images, to a right-padded batch on the model's device.

        Args:
            prompts: one text a sample.
            images: one image, or None, a sample.
            as_chat: put the prompt into the chat template with the generation prompt after it (if
                the tokenizer has one); False: the raw text after BOS.
        """
        sizes = [None if image is None else image.size for image in images]
        return self.assemble(self.rows(prompts, sizes, as_chat), images, as_chat)

    @abstractmethod
    def assemble(
        self, rows: Sequence[Sequence[int]], images: Sequence[Image | None], as_chat: bool = True
    ) -> Batch:
        """Put tokenized prompts and their images into a right-padded batch on the model's device.

        Args:
            rows: the token ids of each prompt, as `rows` returns them.
            images: one image, or None, a sample.
            as_chat: as it was for `rows`.
        """

    @abstractmethod
    def rows(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[list[int]]:
        """Return the token ids that each prompt will have, image tokens included; nothing runs.

        Args:
            prompts: one text a sample.
            sizes: (width, height) in pixels of each sample's image, or None.
            as_chat: see `prepare`.
        """

    def lengths(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[int]:
        """Return how many tokens each prompt will have; arguments as for `rows`."""
        return [len(row) for row in self.rows(prompts, sizes, as_chat)]

    def types(
        self, prompts: Sequence[str], sizes: Sequence[Size | None], as_chat: bool = True
    ) -> list[list[int]]:
        """Return the types of the tokens that each prompt will have; arguments as for `rows`."""
        image_id = getattr(self, "image_id", None)

        def typed(row: list[int]) -> list[int]:
            ids = torch.tensor([row])
            return token_types(ids, torch.ones_like(ids), self.bos_id, image_id)[0].tolist()

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
        self, batch: Batch, embeds: Float[Tensor, "samples sequence d_model"] | None = None
    ) -> Float[Tensor, "samples vocabulary"]:
        """Return the logits at the last real token of each sample, the only ones computed."""
        states = self.run_decoder(batch, self.embed(batch) if embeds is None else embeds)
        last = batch.last.to(states.device)
        logits = precise_logits(self.model.lm_head, states[torch.arange(len(last), device=last.device), last])
        # Gemma 2 squashes its logits.
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def run_decoder(self, batch: Batch, embeds: Tensor) -> Float[Tensor, "samples sequence d_model"]:
        """Run all blocks and the final norm on given embeddings; padding is masked."""
        output = self.decoder(inputs_embeds=embeds, attention_mask=batch.attention_mask, use_cache=False)
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
        return self.decoder.layers[layer]

    def attention(self, layer: int) -> nn.Module:
        """Self-attention of a block; its output is a tuple (output, weights or None)."""
        return self.block(layer).self_attn

    def mlp(self, layer: int) -> nn.Module:
        """MLP of a block."""
        return self.block(layer).mlp

    def writers(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """Modules whose outputs a block adds to the residual stream: for attention and for the MLP.

        Gemma 2 and 3 normalise both once more before adding them.
        """
        block = self.block(layer)
        if hasattr(block, "post_feedforward_layernorm"):
            return block.post_attention_layernorm, block.post_feedforward_layernorm
        return self.attention(layer), self.mlp(layer)

    def attention_output(self, layer: int) -> nn.Module:
        """Output projection of attention; its input holds the heads side by side, `d_head` each."""
        return self.attention(layer).o_proj

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts; BOS is added unless the text, as from a chat template, begins with it."""
        bos = self.tokenizer.bos_token
        has_bos = bool(bos) and all(text.startswith(bos) for text in texts)
        return self.tokenizer(list(texts), add_special_tokens=not has_bos)["input_ids"]

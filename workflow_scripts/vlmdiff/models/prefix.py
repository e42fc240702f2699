"""Keys and values of a batch's first tokens, which need not run again where only later ones are edited."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from vlmdiff.models.batch import Batch
from vlmdiff.models.subject import Subject


@dataclass(frozen=True)
class Prefix:
    """What attention computed of the first tokens of a batch, in every block.

    Attributes:
        length: how many tokens.
        blocks: keys and values of each block, (samples, heads, length, d_head).
    """

    length: int
    blocks: tuple[tuple[Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.blocks)

    def past(self) -> DynamicCache:
        """Return it as a decoder takes it, for one run, which adds the keys and values of its own tokens."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.blocks):
            cache.update(keys, values, layer)
        return cache


@torch.no_grad()
def read_prefix(subject: Subject, batch: Batch, length: int) -> Prefix | None:
    """Return the keys and values of the first tokens of a batch.

    Args:
        subject: the model.
        batch: the prompts.
        length: how many tokens of each.

    Returns:
        None of a model that does not read from left to right, or keeps something else of earlier tokens.
    """
    if not subject.left_to_right:
        return None
    cache = DynamicCache()
    subject.run_decoder(batch, subject.embed(batch), cache)
    layers = [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]
    if len(layers) != subject.n_layers or any(keys.shape[2] < length for keys, _ in layers):
        return None
    parts = ((keys[:, :, :length].clone(), values[:, :, :length].clone()) for keys, values in layers)
    return Prefix(length, tuple(parts))

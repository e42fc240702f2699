"""Keys and values of a batch's first tokens, which need not run again where only later ones are edited."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from vlmdiff.models.batch import Batch
from vlmdiff.models.errors import of_machine
from vlmdiff.models.subject import Subject

log = logging.getLogger(__name__)
# Relative difference of logits that rounding makes at most, in 32 bits and in 16.
ROUNDING = MappingProxyType({4: 1e-3, 2: 0.05})


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


@torch.no_grad()
def trusted_prefix(
    subject: Subject, batch: Batch, length: int, whole: Float[Tensor, "samples vocabulary"]
) -> Prefix | None:
    """Return keys and values of the first tokens of a batch, if a whole run's logits follow from them.

    Args:
        subject: the model.
        batch: the prompts.
        length: how many tokens of each.
        whole: logits of a run of all tokens.

    Returns:
        None, with a warning, of a decoder that does not go on from them; see also `read_prefix`.
    """
    try:
        prefix = read_prefix(subject, batch, length)
        if prefix is None:
            return None
        difference = subject.final_logits(batch, past=prefix.past()) - whole
        if difference.norm() <= ROUNDING[subject.model.dtype.itemsize] * whole.norm():
            return prefix
    except Exception as error:  # decoders fail in many ways if they do not know what they are given
        if of_machine(error):
            raise
    log.warning("model '%s' runs all tokens each time: its earlier ones cannot be kept", subject.name)
    return None

"""Activations of features when the image stays and the question is replaced by a neutral prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlmdiff.activations.massive import massive_tokens
from vlmdiff.activations.tokens import TEXT
from vlmdiff.config.defaults import MASSIVE_RATIO
from vlmdiff.data.batching import prepare_batches
from vlmdiff.models.describe import describe
from vlmdiff.runtime.progress import progress

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample
    from vlmdiff.dictionaries.modules import Dictionary
    from vlmdiff.models.subject import Subject


CHUNK_VALUES = 2**25  # activations encoded at once: 128 MB of float32


@dataclass(frozen=True)
class OwnWords:
    """How far the model goes on by itself after a neutral prompt.

    Attributes:
        steps: most tokens of its own; 0 for none.
        stop: tokens that it must not say: those of the concept's words.
    """

    steps: int = 0
    stop: Collection[int] = ()


def with_prompts(samples: Sequence[Sample], prompts: Sequence[str]) -> list[Sample]:
    """Return every sample with every prompt in place of its question, prompts running fastest."""
    return [sample.model_copy(update={"prompt": prompt}) for sample in samples for prompt in prompts]


def largest_on_text(
    residual: Float[Tensor, "samples sequence d_model"],
    token_type: UInt8[Tensor, "samples sequence"],
    dictionary: Dictionary,
    features: Sequence[int],
    massive_ratio: float = MASSIVE_RATIO,
) -> Float[Tensor, "samples features"]:
    """Return the largest activation of some features over each sample's text tokens; 0 if silent.

    Massive tokens are left out, as they are of the data that dictionaries were trained on.
    """
    # Blocks may lie on other devices than the batch, and both on others than the dictionary.
    text = (token_type == TEXT).to(residual.device)
    text &= ~massive_tokens(residual, token_type, massive_ratio)
    place = torch.full((dictionary.d_sae,), -1, device=dictionary.W_enc.device)
    place[list(features)] = torch.arange(len(features), device=place.device)
    found = dictionary.W_enc.new_zeros(len(text), len(features))
    size = max(1, CHUNK_VALUES // dictionary.d_sae)
    sample = text.nonzero()[:, 0].to(place.device).split(size)
    for rows, part in zip(sample, residual[text].split(size), strict=True):
        # TopK decides among all features, so all are looked at before some are taken.
        pairs = dictionary.active_pairs(part.to(dictionary.W_enc))
        kept = place[pairs.columns] >= 0
        cells = rows[pairs.tokens()[kept]] * len(features) + place[pairs.columns[kept]]
        found.view(-1).scatter_reduce_(0, cells, pairs.values[kept], "amax")
    return found


def groups_in_memory(layers: Sequence[int], each: int, budget: int) -> list[list[int]]:
    """Cut layers into groups whose dictionaries fit into memory together, at least one a group.

    Args:
        layers: in the order in which they are grouped.
        each: bytes of one dictionary's encoder.
        budget: bytes that they may take at once.
    """
    size = max(1, budget // each)
    return [list(layers[start : start + size]) for start in range(0, len(layers), size)]


@torch.no_grad()
def measure(
    subject: Subject,
    samples: Sequence[Sample],
    dictionaries: Mapping[int, Dictionary],
    features: Mapping[int, Sequence[int]],
    batch_tokens: int,
    own_words: OwnWords = OwnWords(),
    massive_ratio: float = MASSIVE_RATIO,
) -> dict[int, np.ndarray]:
    """Run the model once on every sample and encode all layers that are needed.

    Args:
        subject: the model; blocks after the last layer do not run.
        samples: what it is shown.
        dictionaries: one a layer.
        features: features of each layer, in the order of the result's columns.
        batch_tokens: tokens in one forward pass, padding included.
        own_words: how far the model first goes on by itself; its words count as text tokens.
        massive_ratio: multiple of its sample's median norm above which a token is left out; 0: none is.

    Returns:
        For each layer (samples, features), largest activation on a text token.
    """
    layers = sorted(features)
    found = {layer: np.zeros((len(samples), len(features[layer])), np.float32) for layer in layers}
    for indices, batch in progress(prepare_batches(subject, samples, batch_tokens), "batches"):
        batch = describe(subject, batch, own_words.steps, own_words.stop)
        residuals = subject.residuals(batch, layers)
        for layer in layers:
            largest = largest_on_text(
                residuals[layer], batch.token_type, dictionaries[layer], features[layer], massive_ratio
            )
            found[layer][indices] = largest.float().cpu().numpy()
    return found

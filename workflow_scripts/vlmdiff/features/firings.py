"""The active features of a chunk of tokens, as flat arrays; and each sample's strongest ones."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.kernels.strongest import strongest_firings

if TYPE_CHECKING:
    from vlmdiff.activations.store import Chunk
    from vlmdiff.dictionaries.modules import Dictionary

Array = np.ndarray
KINDS = ("image", "text")
CHUNK_VALUES = 2**25  # activations of one chunk: 128 MB of float32
SMALLEST_CHUNK, LARGEST_CHUNK = 64, 8192  # tokens


@dataclass(frozen=True)
class Firings:
    """Active (token, feature) pairs, one an element of each array, in the order of tokens.

    Attributes:
        sample: int64, index of the sample.
        kind: int64, index of the token's type in `KINDS`.
        feature: int64.
        activation: float64, z > 0.
        position: int64, of the token in the model's sequence.
        token_id: int64.
        count: int64, tokens that the element stands for: 1, or all of a sample's once it is reduced.
    """

    sample: Array
    kind: Array
    feature: Array
    activation: Array
    position: Array
    token_id: Array
    count: Array

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, index: Array) -> Firings:
        """Return the pairs at `index` (numbers or a mask)."""
        return Firings(*(getattr(self, field.name)[index] for field in fields(self)))


def tokens_at_once(d_sae: int) -> int:
    """Return how many tokens a dictionary encodes at once in bounded memory."""
    return int(np.clip(CHUNK_VALUES // d_sae, SMALLEST_CHUNK, LARGEST_CHUNK))


def best_device() -> str:
    """Return where dictionaries encode: a GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def join(parts: list[Firings]) -> Firings:
    """Put firings one after the other."""
    return Firings(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Firings))
    )


def no_firings() -> Firings:
    """Return an empty set of firings."""
    whole = np.zeros(0, dtype=np.int64)
    return Firings(whole, whole, whole, np.zeros(0), whole, whole, whole)


def token_kinds(token_type: Array) -> Array:
    """Return the index in `KINDS` of stored token types, image or text."""
    from vlmdiff.activations.tokens import TEXT

    return (token_type == TEXT).astype(np.int64)


def encode_chunk(dictionary: Dictionary, chunk: Chunk) -> Firings:
    """Encode a chunk of tokens and list what is active.

    Raises:
        DictionaryError: an activation is not finite.
    """
    import torch

    with torch.no_grad():
        pairs = dictionary.active_pairs(chunk.values.to(dictionary.W_enc.device))
        if not pairs.values.isfinite().all():
            raise DictionaryError(
                f"{int((~pairs.values.isfinite()).sum())} activations of features are NaN or infinite: "
                "weights or residuals are too large for float32; train the dictionary with a lower "
                "learning_rate, or import it again"
            )
        on = pairs.values > 0
        tokens, features = pairs.tokens()[on].cpu().numpy(), pairs.columns[on].cpu().numpy()
        active = pairs.values[on].cpu().numpy().astype(np.float64)
    sample, kind, position, token_id = (
        np.asarray(column)[tokens].astype(np.int64)
        for column in (
            chunk.sample,
            token_kinds(np.asarray(chunk.token_type)),
            chunk.position,
            chunk.token_id,
        )
    )
    return Firings(sample, kind, features, active, position, token_id, np.ones(len(sample), np.int64))


def strongest_per_sample(firings: Firings, d_sae: int) -> Firings:
    """Keep the strongest token of each (sample, kind, feature), the first of equals, and count them all.

    Args:
        firings: in the order of tokens.
        d_sae: number of features.
    """
    if not len(firings):
        return firings
    places, counts = strongest_firings(
        firings.sample,
        firings.kind * d_sae + firings.feature,
        firings.activation,
        firings.count,
        len(KINDS) * d_sae,
    )
    return replace(firings.take(places), count=counts)

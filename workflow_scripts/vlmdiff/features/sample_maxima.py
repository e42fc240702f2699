"""Each sample's largest activation of every feature, on a text token: a sparse table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.sparse import csc_matrix, vstack

from vlmdiff.activations.paired import open_store
from vlmdiff.dictionaries.partial_reads import load_encoder
from vlmdiff.features.firings import (
    best_device,
    encode_chunk,
    join,
    no_firings,
    strongest_per_sample,
    tokens_at_once,
)


@dataclass(frozen=True)
class SampleMaxima:
    """What a dictionary's features do on some samples.

    Attributes:
        values: (samples, d_sae), largest z on a text token; 0 where the feature is silent.
        sample_ids: of the rows.
    """

    values: csc_matrix
    sample_ids: list[str]

    def rows(self, sample_ids: Sequence[str]) -> csc_matrix:
        """Return the rows of some samples, in the order asked for.

        Raises:
            KeyError: a sample is not there.
        """
        place = {name: row for row, name in enumerate(self.sample_ids)}
        return self.values.tocsr()[[place[name] for name in sample_ids]].tocsc()


def join_samples(parts: Sequence[SampleMaxima]) -> SampleMaxima:
    """Put the samples of several data sets one below the other."""
    values = vstack([part.values for part in parts], "csc")
    return SampleMaxima(values, [name for part in parts for name in part.sample_ids])


def sample_maxima(
    shards: Sequence[str | Path], folder: str | Path, layer: int, device: str | None = None
) -> SampleMaxima:
    """Encode the stored text tokens of a data set by a dictionary, and keep each sample's largest.

    Args:
        shards: activation shards of the data set.
        folder: the dictionary's.
        layer: decoder block.
        device: where the dictionary encodes; None takes a GPU if there is one.

    Raises:
        DictionaryError: an activation is not finite.
    """
    store = open_store(shards, layer)
    dictionary = load_encoder(folder, device or best_device(), store.d_model)
    parts = [
        strongest_per_sample(encode_chunk(dictionary, chunk), dictionary.d_sae)
        for chunk in store.chunks(["text"], tokens_at_once(dictionary.d_sae))
    ]
    # A sample's tokens may lie in two chunks.
    found = strongest_per_sample(join([no_firings(), *parts]), dictionary.d_sae)
    shape = (len(store.sample_ids), dictionary.d_sae)
    values = csc_matrix((found.activation, (found.sample, found.feature)), shape)
    return SampleMaxima(values, list(store.sample_ids))

"""What the features of one dictionary do on one data set: one pass over its activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vlmdiff.features.firings import (
    KINDS,
    Firings,
    best_device,
    encode_chunk,
    join,
    no_firings,
    strongest_per_sample,
    token_kinds,
    tokens_at_once,
)
from vlmdiff.features.top_samples import TopSamples
from vlmdiff.kernels.strongest import add_firings, add_records
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.features import STATISTICS, TOP_SAMPLES, TOTALS
from vlmdiff.tables.io import write_table

if TYPE_CHECKING:
    from vlmdiff.activations.store import ActivationStore, Chunk
    from vlmdiff.dictionaries.modules import Dictionary


class StatisticsError(ValueError):
    """The dictionary and the activations do not belong together."""


class FeatureStatistics:
    """Running sums and strongest samples; memory does not grow with the number of samples.

    All arrays of sums have the shape (groups, kinds, d_sae).
    """

    def __init__(self, sample_groups: Sequence[str], d_sae: int, top: int) -> None:
        """Start empty.

        Args:
            sample_groups: group of each sample.
            d_sae: number of features.
            top: strongest samples kept of each feature in each group.
        """
        self.groups, group = np.unique(np.asarray(sample_groups, dtype=str), return_inverse=True)
        self.group = group.astype(np.int64)
        shape = (len(self.groups), len(KINDS), d_sae)
        self.fires, self.samples_fired = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.sum, self.squares = np.zeros(shape), np.zeros(shape)
        self.fires_squares, self.fires_tokens = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.sample_tokens = np.zeros((len(self.group), len(KINDS)), np.int64)
        self.n_tokens, self.n_samples = np.zeros(shape[:2], np.int64), np.zeros(shape[:2], np.int64)
        self.last_sample = np.full(len(KINDS), -1)
        self.top = TopSamples(self.group, len(self.groups), d_sae, top)
        self.open = no_firings()
        self.d_sae = d_sae

    def add(self, chunk: Chunk, firings: Firings) -> None:
        """Take in one chunk of tokens, the next in order, and what is active on it."""
        self._count_tokens(np.asarray(chunk.sample), token_kinds(np.asarray(chunk.token_type)))
        add_firings(self._cells(firings), firings.activation, *flat(self.fires, self.sum, self.squares))
        # The last sample may go on in the next chunk: what it did so far waits until it is whole.
        records = strongest_per_sample(join([self.open, firings]), self.d_sae)
        unfinished = records.sample == int(chunk.sample[-1])
        self.open = records.take(unfinished)
        self._close(records.take(~unfinished))

    def finish(self) -> None:
        """Count the last sample."""
        self._close(self.open)
        self.open = no_firings()

    def _count_tokens(self, sample: np.ndarray, kind: np.ndarray) -> None:
        """Count tokens and samples; a sample that goes on from the last chunk is counted already."""
        np.add.at(self.n_tokens, (self.group[sample], kind), 1)
        np.add.at(self.sample_tokens, (sample, kind), 1)
        for k in range(len(KINDS)):
            present = np.unique(sample[kind == k])
            np.add.at(self.n_samples[:, k], self.group[present[present != self.last_sample[k]]], 1)
            if len(present):
                self.last_sample[k] = present[-1]

    def _close(self, records: Firings) -> None:
        """Take in whole samples, one record for each (sample, kind, feature)."""
        cell, tokens = self._cells(records), self.sample_tokens[records.sample, records.kind]
        sums = flat(self.samples_fired, self.fires_squares, self.fires_tokens)
        add_records(cell, tokens, records.count, *sums)
        self.top.add(records.take(records.kind == KINDS.index("text")))

    def _cells(self, firings: Firings) -> np.ndarray:
        """Return the place of each pair in the flattened arrays of sums."""
        return (self.group[firings.sample] * len(KINDS) + firings.kind) * self.d_sae + firings.feature

    def statistics(self, layer: int) -> pd.DataFrame:
        """Return the rows of contract STATISTICS."""
        group, kind, feature = np.nonzero(self.fires)
        cell = (group, kind, feature)
        return pd.DataFrame(
            {
                "layer": np.full(len(feature), layer),
                "feature": feature,
                "group": self.groups.astype(object)[group],
                "token_type": np.array(KINDS, dtype=object)[kind],
                "fires": self.fires[cell],
                "sum_activation": self.sum[cell],
                "sum_squares": self.squares[cell],
                "samples_fired": self.samples_fired[cell],
                "sum_fires_squares": self.fires_squares[cell],
                "sum_fires_tokens": self.fires_tokens[cell],
            }
        )

    def totals(self, layer: int) -> pd.DataFrame:
        """Return the rows of contract TOTALS."""
        group, kind = np.nonzero(self.n_tokens)
        squares = np.zeros_like(self.n_tokens)
        np.add.at(squares, self.group, self.sample_tokens**2)
        return pd.DataFrame(
            {
                "layer": np.full(len(group), layer),
                "group": self.groups.astype(object)[group],
                "token_type": np.array(KINDS, dtype=object)[kind],
                "n_tokens": self.n_tokens[group, kind],
                "n_samples": self.n_samples[group, kind],
                "sum_tokens_squares": squares[group, kind],
            }
        )


def flat(*sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return whole arrays as vectors that share their memory."""
    return tuple(one.reshape(-1) for one in sums)


def collect_statistics(
    store: ActivationStore, dictionary: Dictionary, top: int, max_tokens: int
) -> FeatureStatistics:
    """Run a dictionary over stored activations.

    Raises:
        StatisticsError: the dictionary reads residual streams of another width.
    """
    if store.d_model != dictionary.d_model:
        raise StatisticsError(
            f"the dictionary reads {dictionary.d_model} dimensions, the activations have {store.d_model}; "
            "train or load a dictionary for this model"
        )
    running = FeatureStatistics(store.groups, dictionary.d_sae, top)
    for chunk in progress(store.chunks(store.token_types, max_tokens), "chunks"):
        running.add(chunk, encode_chunk(dictionary, chunk))
    running.finish()
    return running


def feature_statistics(
    shards: Sequence[str | Path],
    dictionary_folder: str | Path,
    layer: int,
    outputs: Sequence[str | Path],
    top: int,
) -> None:
    """Write statistics, totals and top samples of one dictionary on one data set.

    Args:
        shards: activations of a model shown the data set.
        dictionary_folder: the dictionary of `layer`.
        layer: decoder block.
        outputs: paths of the tables STATISTICS, TOTALS and TOP_SAMPLES.
        top: strongest samples kept of each feature in each group.
    """
    from vlmdiff.activations.paired import open_store
    from vlmdiff.dictionaries.partial_reads import load_encoder

    store = open_store(shards, layer)
    dictionary = load_encoder(dictionary_folder, best_device(), store.d_model)
    running = collect_statistics(store, dictionary, top, tokens_at_once(dictionary.d_sae))
    statistics_file, totals_file, top_file = outputs
    write_table(running.statistics(layer), STATISTICS, statistics_file)
    write_table(running.totals(layer), TOTALS, totals_file)
    write_table(running.top.table(layer, running.groups, store.sample_ids), TOP_SAMPLES, top_file)

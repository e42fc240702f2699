"""A running list of the strongest samples of every feature in every group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from vlmdiff.features.firings import Firings, join, no_firings

BUFFER = 2**18  # rows that wait for the next sort


class TopSamples:
    """Keeps the `count` strongest samples of each (group, feature), in bounded memory.

    Rows must come in the order of samples, one for each (sample, feature). Equal activations rank in
    the order of samples, so the result does not depend on how the samples were cut into chunks.
    """

    def __init__(self, group: np.ndarray, n_groups: int, d_sae: int, count: int) -> None:
        """Start empty.

        Args:
            group: int64 (samples,), index of each sample's group.
            n_groups: number of groups.
            d_sae: number of features.
            count: samples kept.
        """
        self.group, self.d_sae, self.count = group, d_sae, count
        self.kept, self.waiting, self.n_waiting = compact(no_firings()), [], 0
        # What a row must exceed to be kept, once a (group, feature) has `count` rows.
        self.bar = np.zeros(n_groups * d_sae)

    def key(self, rows: Firings) -> np.ndarray:
        """Return the (group, feature) of each row as one number."""
        return self.group[rows.sample] * self.d_sae + rows.feature

    def add(self, rows: Firings) -> None:
        """Take in the strongest firings of further samples."""
        rows = compact(rows.take(rows.activation > self.bar[self.key(rows)]))
        self.waiting.append(rows)
        self.n_waiting += len(rows)
        if self.n_waiting > max(BUFFER, len(self.kept)):
            self.prune()

    def prune(self) -> None:
        """Merge what waits with what is kept, and drop what is beyond `count`."""
        rows = join([self.kept, *self.waiting])
        # Millions of rows at real size: what was joined is not held twice.
        self.kept, self.waiting, self.n_waiting = rows, [], 0
        key = self.key(rows)
        order = np.lexsort((rows.sample, -rows.activation, key))
        key = key[order]
        rank = ranks(key)
        self.kept = rows.take(order[rank < self.count])
        last = rank == self.count - 1
        self.bar[key[last]] = rows.activation[order[last]]

    def table(self, layer: int, groups: Sequence[str], sample_ids: Sequence[str]) -> pd.DataFrame:
        """Return the rows of contract TOP_SAMPLES."""
        self.prune()
        rows = self.kept
        return pd.DataFrame(
            {
                "layer": np.full(len(rows), layer),
                "feature": rows.feature,
                "group": np.asarray(groups, dtype=object)[self.group[rows.sample]],
                "rank": ranks(self.key(rows)),
                "sample_id": np.asarray(sample_ids, dtype=object)[rows.sample],
                "position": rows.position,
                "token_id": rows.token_id,
                "activation": rows.activation,
            }
        )


def compact(rows: Firings) -> Firings:
    """Return rows in the smallest types that hold them: 29 bytes a row instead of 56."""
    small = (np.int32, np.int8, np.int32, np.float64, np.int32, np.int32, np.int32)
    return Firings(*(getattr(rows, one.name).astype(kind) for one, kind in zip(fields(Firings), small)))


def ranks(key: np.ndarray) -> np.ndarray:
    """Number the elements of each run of equal keys from 0."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    return np.arange(len(key)) - np.repeat(starts, np.diff(starts, append=len(key)))

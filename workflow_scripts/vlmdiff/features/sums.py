"""Add up the statistics of sets of samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc

from vlmdiff.tables.features import STATISTICS, TOTALS
from vlmdiff.tables.io import read_table

SUMS = [
    "fires", "sum_activation", "sum_squares", "samples_fired", "sum_fires_squares", "sum_fires_tokens",
]  # fmt: skip
TOTAL_SUMS = ["n_tokens", "n_samples", "sum_tokens_squares"]


class SampleSetError(ValueError):
    """A set of samples cannot be made."""


@dataclass(frozen=True)
class SampleSet:
    """Samples of one data set, all of them or those of some groups."""

    dataset: str
    groups: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: dict) -> SampleSet:
        """Make a set from a concept's `target` or `baseline` in the config."""
        groups = values.get("groups")
        without = tuple(values.get("without", ()))
        return cls(values["dataset"], None if groups is None else tuple(groups), without)

    def choose(self, known: Collection[str]) -> set[str]:
        """Return the groups of the set.

        Raises:
            SampleSetError: a group that the data set does not have, or no group is left.
        """
        named = set(self.groups or ()) | set(self.without)
        if unknown := sorted(named - set(known)):
            raise SampleSetError(
                f"data set '{self.dataset}' has no group {unknown}; it has {sorted(known)}. "
                "Correct `groups` or `without` of the concept in the config"
            )
        chosen = set(known if self.groups is None else self.groups) - set(self.without)
        if not chosen:
            raise SampleSetError(
                f"no group of data set '{self.dataset}' is left; change `groups` or `without` of the concept"
            )
        return chosen


def text_totals(paths: Iterable[str | Path], sample_set: SampleSet | None = None) -> pd.DataFrame:
    """Return text tokens and samples by layer: index layer, columns `TOTAL_SUMS`."""
    parts = [read_table(path, TOTALS) for path in paths]
    totals = pd.concat(parts, ignore_index=True)
    if sample_set is not None:
        totals = totals[totals["group"].isin(sample_set.choose(set(totals["group"])))]
    totals = totals[totals["token_type"] == "text"]
    return totals.groupby("layer")[TOTAL_SUMS].sum()


def text_sums(paths: Iterable[str | Path], groups: Collection[str] | None = None) -> pd.DataFrame:
    """Return sums over text tokens by feature: index (layer, feature), columns `SUMS`.

    Args:
        paths: STATISTICS tables of any layers and data sets, read one after the other.
        groups: only these groups; all if left out.
    """
    rows = pc.field("token_type") == "text"
    if groups is not None:
        rows = rows & pc.field("group").isin(sorted(groups))
    parts = []
    for path in paths:
        table = read_table(path, STATISTICS, ["layer", "feature", *SUMS], rows)
        parts.append(table.groupby(["layer", "feature"])[SUMS].sum())
    return pd.concat(parts).groupby(level=["layer", "feature"]).sum()

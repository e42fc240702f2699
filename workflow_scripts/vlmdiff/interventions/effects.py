"""Compare the answers under an intervention with those of the clean model, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.bootstrap import interval, resample_counts
from vlmdiff.runtime.seeds import derive_seed

ALL = "all"


class EffectTable:
    """Turns answers into rows of accuracy and margin changes with paired bootstrap intervals.

    One set of resamples a group serves all interventions, so that their intervals can be compared
    without resampling noise between them.
    """

    def __init__(self, dataset: str, groups: np.ndarray, clean: Answers, resamples: int, seed: int) -> None:
        """Draw the resamples of every group.

        Args:
            dataset: name of the data set.
            groups: group of each sample.
            clean: answers without intervention.
            resamples: number of bootstrap resamples.
            seed: seed of the run.
        """
        self.dataset, self.clean = dataset, clean
        members = {ALL: np.arange(len(groups))}
        members |= {str(group): np.flatnonzero(groups == group) for group in sorted(set(groups))}
        self.members = members
        self.counts = {
            group: resample_counts(len(index), resamples, derive_seed(seed, "bootstrap", dataset, group))
            for group, index in members.items()
        }

    def rows(self, edited: Answers) -> Iterator[dict[str, Any]]:
        """Yield the whole data set's row, then one a group; columns as in `tables.causal.EFFECT`."""
        correct = edited.correct.astype(float) - self.clean.correct
        margin = edited.margin - self.clean.margin
        for group, index in self.members.items():
            deltas = np.stack([correct[index], margin[index]])
            low, high = interval(deltas, self.counts[group])
            yield {
                "dataset": self.dataset,
                "group": group,
                "n": len(index),
                "accuracy_clean": float(self.clean.correct[index].mean()),
                "accuracy": float(edited.correct[index].mean()),
                "delta_accuracy": float(deltas[0].mean()),
                "delta_low": float(low[0]),
                "delta_high": float(high[0]),
                "delta_margin": float(deltas[1].mean()),
                "margin_low": float(low[1]),
                "margin_high": float(high[1]),
            }

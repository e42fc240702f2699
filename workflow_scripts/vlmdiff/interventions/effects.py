"""Compare the answers under an intervention with those of the clean model, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from vlmdiff.data.identity import image_identity
from vlmdiff.data.samples import Sample
from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.bootstrap import crossed, interval, resample_counts
from vlmdiff.runtime.seeds import derive_seed

ALL = "all"


def divisions(samples: Sequence[Sample]) -> list[np.ndarray]:
    """Return what may make samples depend on one another: their text, and their image if they have one."""
    texts = np.array([sample.prompt for sample in samples], dtype=object)
    images = np.array([image_identity(one) or f"none {i}" for i, one in enumerate(samples)], dtype=object)
    return [texts, images]


def mcnemar_p(lost: int, gained: int) -> float:
    """Return McNemar's exact two-sided p of as many right answers lost as gained (Biometrika 12, 1947)."""
    changed = lost + gained
    return float(binomtest(lost, changed).pvalue) if changed else 1.0


class EffectTable:
    """Turns answers into rows of accuracy and margin changes with paired, clustered bootstrap intervals.

    One set of resamples a group serves all interventions, so that their intervals can be compared
    without resampling noise between them.
    """

    def __init__(
        self, dataset: str, samples: Sequence[Sample], clean: Answers, resamples: int, seed: int
    ) -> None:
        """Draw the resamples of every group.

        Args:
            dataset: name of the data set.
            samples: its samples.
            clean: their answers without intervention.
            resamples: number of bootstrap resamples.
            seed: seed of the run.
        """
        self.dataset, self.clean = dataset, clean
        groups = np.array([sample.group for sample in samples], dtype=object)
        members = {ALL: np.arange(len(groups))}
        members |= {str(group): np.flatnonzero(groups == group) for group in sorted(set(groups))}
        self.members = members
        labels = divisions(samples)
        clusters = {group: crossed([own[index] for own in labels]) for group, index in members.items()}
        self.clusters = {group: min(int(own.max()) + 1 for own in found) for group, found in clusters.items()}
        self.counts = {
            group: resample_counts(found, resamples, derive_seed(seed, "bootstrap", dataset, group))
            for group, found in clusters.items()
        }

    def rows(self, edited: Answers) -> Iterator[dict[str, Any]]:
        """Yield the whole data set's row, then one a group; columns as in `tables.causal.EFFECT`."""
        correct = edited.correct.astype(float) - self.clean.correct
        margin = edited.margin - self.clean.margin
        for group, index in self.members.items():
            deltas = np.stack([correct[index], margin[index]])
            low, high = interval(deltas, self.counts[group], self.clusters[group])
            lost, gained = int((deltas[0] < 0).sum()), int((deltas[0] > 0).sum())
            yield {
                "dataset": self.dataset,
                "group": group,
                "n": len(index),
                "clusters": self.clusters[group],
                "accuracy_clean": float(self.clean.correct[index].mean()),
                "accuracy": float(edited.correct[index].mean()),
                "delta_accuracy": float(deltas[0].mean()),
                "delta_low": float(low[0]),
                "delta_high": float(high[0]),
                "lost": lost,
                "gained": gained,
                "mcnemar_p": mcnemar_p(lost, gained),
                "delta_margin": float(deltas[1].mean()),
                "margin_low": float(low[1]),
                "margin_high": float(high[1]),
            }

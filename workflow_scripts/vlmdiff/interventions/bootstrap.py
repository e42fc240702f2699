"""Percentile bootstrap of a mean over samples, for many quantities at once.

Samples that share a text or an image are not independent. Where texts (or images) repeat, whole clusters are
drawn. Where both do, and neither division lies within the other, each is drawn by itself and a sample counts
as often as the product says: the pigeonhole bootstrap of crossed clusters, which errs on the wide side
(Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). The percentile interval of few
clusters is too narrow; it is widened as Student's t asks (Hesterberg, "What Teachers Should Know About the
Bootstrap", American Statistician 69, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm, t

LEVEL = 0.95


def crossed(divisions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return those divisions into clusters that no other one contains, as whole numbers from 0 on.

    A division in which nothing repeats lies within every other one: it is returned only if all are so.

    Args:
        divisions: for each way of clustering, a label for each sample, `(n,)`.
    """
    codes = [pd.factorize(labels)[0] for labels in divisions]
    kept: list[np.ndarray] = []
    for own in sorted(codes, key=lambda labels: labels.max(initial=0)):
        if not any(nested(own, other) for other in kept):
            kept.append(own)
    return kept


def nested(fine: np.ndarray, coarse: np.ndarray) -> bool:
    """Tell whether every cluster of one division lies in a single cluster of another."""
    pairs = pd.DataFrame({"fine": fine, "coarse": coarse}).drop_duplicates()
    return bool(pairs["fine"].is_unique)


def resample_counts(divisions: Sequence[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Draw how often each sample occurs in each resample.

    Args:
        divisions: crossed divisions into clusters, each `(n,)` whole numbers from 0 on (`crossed`).
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        `(resamples, n)` counts.
    """
    generator = np.random.default_rng(seed)
    counts = np.ones((resamples, len(divisions[0])))
    for labels in divisions:
        clusters = int(labels.max(initial=0)) + 1
        counts *= generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)[:, labels]
    return counts


def interval(values: np.ndarray, counts: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile interval of the mean of each row of `values`.

    Clean and ablated runs answer the same samples; `values` holds their differences sample by
    sample, so that resampling samples makes the interval a paired one.

    Args:
        values: `(quantities, n)` differences by sample.
        counts: `(resamples, n)` from `resample_counts`; resamples that are empty are left out.
        clusters: independent units that were drawn.

    Returns:
        Lower and upper ends, each `(quantities,)`.
    """
    drawn = counts.sum(axis=1)
    counts, drawn = counts[drawn > 0], drawn[drawn > 0]
    means = values @ counts.T / drawn
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail], axis=1)
    centre, factor = values.mean(axis=1), widening(clusters)
    return centre + factor * (low - centre), centre + factor * (high - centre)


def widening(clusters: int) -> float:
    """Return by how much the interval of so few clusters must be wider; 1 for one, which tells nothing."""
    if clusters < 2:
        return 1.0
    upper = (1 + LEVEL) / 2
    return float(t.ppf(upper, clusters - 1) / norm.ppf(upper) * np.sqrt(clusters / (clusters - 1)))

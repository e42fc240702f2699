"""Percentile bootstrap of a mean over samples, for many quantities at once."""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def resample_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each of `n` samples occurs in each resample.

    Returns:
        `(resamples, n)` counts; each row sums to `n`.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)


def interval(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile interval of the mean of each row of `values`.

    Clean and ablated runs answer the same samples; `values` holds their differences sample by
    sample, so that resampling samples makes the interval a paired one.

    Args:
        values: `(quantities, n)` differences by sample.
        counts: `(resamples, n)` from `resample_counts`.

    Returns:
        Lower and upper ends, each `(quantities,)`.
    """
    means = values @ counts.T / counts.shape[1]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail], axis=1)
    return low, high

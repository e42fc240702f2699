"""How well a feature's activation tells a label: areas under the ROC curve of many features at once."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, rankdata

Array = np.ndarray


def auroc(activations: Array, labels: Array) -> Array:
    """Return the area under the ROC curve of every feature for every label, ties counted half.

    Args:
        activations: (samples, features).
        labels: bool (samples, labels).

    Returns:
        (labels, features); NaN where a label has only one value.
    """
    ranks = rankdata(activations, axis=0)
    positive = labels.sum(0).astype(np.float64)[:, None]
    negative = len(labels) - positive
    rank_sums = labels.T.astype(np.float64) @ ranks
    with np.errstate(divide="ignore", invalid="ignore"):
        return (rank_sums - positive * (positive + 1) / 2) / (positive * negative)


def delong_interval(activation: Array, label: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of one area (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988).

    Args:
        activation: (samples,) of one feature.
        label: bool (samples,).
        level: of the interval, which is cut off at 0 and 1.
    """
    above, below = activation[label], activation[~label]
    if min(len(above), len(below)) < 2:
        return float("nan"), float("nan")
    together = rankdata(np.concatenate([above, below]))
    # For each sample the share of the other class that it is ranked above (below).
    of_positive = (together[: len(above)] - rankdata(above)) / len(below)
    of_negative = 1 - (together[len(above) :] - rankdata(below)) / len(above)
    variance = of_positive.var(ddof=1) / len(above) + of_negative.var(ddof=1) / len(below)
    half, area = norm.ppf((1 + level) / 2) * np.sqrt(variance), of_positive.mean()
    return float(max(0.0, area - half)), float(min(1.0, area + half))

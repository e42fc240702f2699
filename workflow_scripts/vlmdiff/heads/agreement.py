"""How well attribution patching agrees with exact patching.

Where only some heads are patched, those of the highest attribution are patched for certain and others by
chance. A plain correlation over them overstates that over all heads: the extremes are all there, the middle
is not. So each head counts for as many as it was drawn from (inverse-probability weights).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import norm, t

from vlmdiff.heads.aggregate import FEATURE

# The score and methods A and B are sizes of an effect, the signed estimate is an effect with its direction.
REFERENCE: Mapping[str, str] = MappingProxyType(
    {"score": "exact_abs", "method_a": "exact_abs", "method_b": "exact_abs", "signed": "exact"}
)
POOLED = "pooled"
# Of fewer features no interval over features is told: in simulations it misses too often.
MIN_FEATURES = 5
# Resamples that are ranked at once.
CHUNK = 200
LEVEL = 0.95


def weighted_ranks(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, "draws n"]:
    """Return the weight below each value and half of its own: for weights of 1 the mean rank less 1/2."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    at = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(at, axis=1) - at / 2)[:, place]


def weighted_pearson(
    first: Float[np.ndarray, "draws n"],
    second: Float[np.ndarray, "draws n"],
    weights: Float[np.ndarray, "draws n"],
) -> Float[np.ndarray, " draws"]:
    """Return the correlation of the pairs under each row of weights; NaN where a side does not vary."""
    total = weights.sum(axis=1, keepdims=True)
    sides, varies = [], np.full(len(weights), True)
    for side in (first, second):
        centred = side - (weights * side).sum(axis=1, keepdims=True) / total
        deviation = np.sqrt((weights * centred**2).sum(axis=1, keepdims=True) / total)
        # What is left of equal values is rounding.
        varies &= deviation[:, 0] > 1e-12 * np.abs(side).max(axis=1)
        sides.append(centred / np.where(deviation > 0, deviation, 1.0))
    return np.where(varies, (weights * sides[0] * sides[1] / total).sum(axis=1), np.nan)


def correlations(
    estimate: Float[np.ndarray, " n"],
    exact: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, "draws n"],
    ranks: bool,
) -> Float[np.ndarray, " draws"]:
    """Return Pearson's (or with `ranks` Spearman's) correlation under each row of weights.

    Args:
        estimate, exact: one value a head, or a pair of feature and head.
        weights: for how many each of them counts.
        ranks: whether to correlate weighted ranks.

    Returns:
        NaN for fewer than 3 values, or where a side does not vary.
    """
    if len(estimate) < 3:
        return np.full(len(weights), np.nan)
    if ranks:
        return weighted_pearson(*(weighted_ranks(side, weights) for side in (estimate, exact)), weights)
    return weighted_pearson(estimate[None], exact[None], weights)


def resampled_weights(frame: pd.DataFrame, resamples: int, seed: int) -> Float[np.ndarray, "resamples n"]:
    """Draw features again, all their heads with them, and of the heads those that were drawn by chance.

    The heads of one feature are not independent, and the same heads were patched for every feature. Heads
    that were patched for certain are no sample: they are not drawn again.

    Args:
        frame: pairs of feature and head with their weight.
        resamples: how often.
        seed: seed of the draws.
    """
    generator = np.random.default_rng(seed)
    weights = frame["weight"].to_numpy(float)
    by_chance = weights > 1
    counts = np.ones((resamples, len(frame)))
    for columns, mine in ((FEATURE, np.full(len(frame), True)), (["layer", "head"], by_chance)):
        if mine.any():
            unit = frame[mine].groupby(columns).ngroup().to_numpy()
            number = unit.max() + 1
            drawn = generator.multinomial(number, np.full(number, 1 / number), size=resamples)
            counts[:, mine] *= drawn[:, unit]
    return counts * weights


def tail(features: int) -> float:
    """Return the share of resamples outside each end of an interval over few features.

    Percentiles of a bootstrap over `n` units are too narrow by `sqrt((n - 1) / n)` and by z for t
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 5: expanded percentiles).
    """
    wide = t.ppf((1 + LEVEL) / 2, features - 1) * np.sqrt(features / (features - 1))
    return float(norm.cdf(-wide))


def rank_interval(
    frame: pd.DataFrame, method: str, draws: Float[np.ndarray, "resamples n"]
) -> tuple[float, float]:
    """Return the 95 % interval of Spearman's correlation over resamples of features; NaN without any."""
    estimate, exact = frame[method].to_numpy(float), frame[REFERENCE[method]].to_numpy(float)
    found = [
        correlations(estimate, exact, draws[start : start + CHUNK], ranks=True)
        for start in range(0, len(draws), CHUNK)
    ]
    known = np.concatenate([np.empty(0), *found])
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan")
    outside = tail(frame.groupby(FEATURE).ngroups)
    low, high = np.quantile(known, [outside, 1 - outside])
    return float(low), float(high)


def agreement_rows(frame: pd.DataFrame, resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield one row a method for pairs of feature and head; intervals only over several features.

    Args:
        frame: pairs with estimates, exact effects and weight.
        resamples: resamples of the bootstrap over features.
        seed: its seed.
    """
    features = frame.groupby(FEATURE).ngroups
    draws = resampled_weights(frame, resamples if features >= MIN_FEATURES else 0, seed)
    weights = frame["weight"].to_numpy(float)[None]
    for method, reference in REFERENCE.items():
        pair = frame[method].to_numpy(float), frame[reference].to_numpy(float)
        low, high = rank_interval(frame, method, draws)
        yield {
            "method": method,
            "reference": reference,
            "features": features,
            "heads": len(frame),
            "spearman": float(correlations(*pair, weights, ranks=True)[0]),
            "spearman_low": low,
            "spearman_high": high,
            "pearson": float(correlations(*pair, weights, ranks=False)[0]),
        }


def relative(frame: pd.DataFrame, column: str, weights: pd.Series) -> pd.Series:
    """Divide by the mean absolute value over the feature's heads, so that features can be pooled.

    By the mean and not by the sum: a feature of a late layer has more heads, so each has a smaller share, in
    estimates and exact effects alike. That would pass for agreement.
    """
    keys = [frame[name] for name in FEATURE]
    total, count = ((weights * size).groupby(keys).transform("sum") for size in (frame[column].abs(), 1.0))
    return (frame[column] * count / total.where(total > 0)).fillna(0.0)


def agreement(
    attribution: pd.DataFrame, patching: pd.DataFrame, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Correlate estimates with exact effects over heads, for each feature and pooled over features.

    Args:
        attribution: rows of attribution.csv.
        patching: rows of patching.csv.
        resamples: resamples of the bootstrap over features.
        seed: its seed.

    Returns:
        Rows of HEAD_AGREEMENT, the concept aside; feature_layer and feature are -1 when pooled.
    """
    columns = [*FEATURE, "name", "layer", "head"]
    every = pd.Series(1.0, index=attribution.index)
    scaled = attribution.assign(**{method: relative(attribution, method, every) for method in REFERENCE})
    both = scaled.drop(columns="concept").merge(
        patching.drop(columns="concept"), on=columns, how="inner", validate="one_to_one"
    )
    both = both.assign(**{name: relative(both, name, both["weight"]) for name in set(REFERENCE.values())})
    rows = []
    for (layer, feature, name), frame in both.groupby([*FEATURE, "name"], sort=True):
        place = {"feature_layer": layer, "feature": feature, "name": name}
        rows += [{**place, **row} for row in agreement_rows(frame, resamples, seed)]
    if len(both):
        place = {"feature_layer": -1, "feature": -1, "name": POOLED}
        rows += [{**place, **row} for row in agreement_rows(both, resamples, seed)]
    return rows

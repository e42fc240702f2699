"""The contrast's p with samples as clusters: tokens of one sample are not independent.

A feature's frequency is a ratio of sums over samples (firings / tokens), whose variance follows from
the spread of samples around that ratio (the linearised variance of a ratio estimator, Cochran,
"Sampling Techniques", 1977, section 6.3; the survey statistician's "design effect" is its ratio to
the variance of independent tokens). Only sums over samples are needed, so nothing is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, stdtr

Array = np.ndarray
SMALLEST = 1e-290  # tails below it lose digits


@dataclass(frozen=True)
class ClusterSums:
    """Sums over the samples of one set, arrays of one shape (features,).

    Attributes:
        fires: sum of x, the units of a sample on which the feature fires.
        units: sum of n, the units of a sample.
        fires_squares: sum of x squared.
        fires_units: sum of x n.
        units_squares: sum of n squared.
        samples: number of samples.
        samples_fired: number of samples with x > 0.
    """

    fires: Array
    units: Array
    fires_squares: Array
    fires_units: Array
    units_squares: Array
    samples: Array
    samples_fired: Array

    @property
    def frequency(self) -> Array:
        """Units on which the feature fires, as a fraction."""
        return self.fires / self.units

    @property
    def variance(self) -> Array:
        """Variance of the frequency with samples as clusters; NaN for a single sample."""
        p = self.frequency
        spread = self.fires_squares - 2 * p * self.fires_units + p * p * self.units_squares
        with np.errstate(divide="ignore", invalid="ignore"):
            correction = self.samples / (self.samples - 1.0)
            return np.maximum(spread, 0.0) * correction / (self.units.astype(np.float64) ** 2)

    @property
    def binomial_variance(self) -> Array:
        """Variance of the frequency if units were independent."""
        p = self.frequency
        return p * (1 - p) / self.units


def clustered_test(target: ClusterSums, baseline: ClusterSums) -> tuple[Array, Array]:
    """Test whether a feature fires more often in the target, with samples as clusters.

    The difference of frequencies over its standard error is held against Student's t. Its degrees of
    freedom are the samples on which the feature fires, less one: the others add no knowledge of its
    spread, and a feature that fires in three samples must not look certain.

    Returns:
        Natural logarithm of the one-sided p (0 where nothing varies), and the design effect.
    """
    difference = target.frequency - baseline.frequency
    variance = target.variance + baseline.variance
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = difference / np.sqrt(variance)
        effect = variance / (target.binomial_variance + baseline.binomial_variance)
    freedom = np.maximum(target.samples_fired + baseline.samples_fired - 1, 1)
    log_p = log_t_tail(np.nan_to_num(statistic, nan=0.0, posinf=0.0, neginf=0.0), freedom)
    return np.where(variance > 0, log_p, 0.0), np.where(variance > 0, effect, np.nan)


def log_t_tail(t: Array, freedom: Array) -> Array:
    """Natural logarithm of P(T >= t) for Student's t, without underflow.

    Where the tail itself is too small for a float64, Wallace's normal deviate (Annals of Mathematical
    Statistics 30, 1959) stands in, whose logarithm is right to one per cent there.
    """
    tail = stdtr(freedom, -t)
    deviate = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(t * t / freedom))
    with np.errstate(divide="ignore"):
        return np.where(tail > SMALLEST, np.log(tail), log_ndtr(-np.sign(t) * deviate))

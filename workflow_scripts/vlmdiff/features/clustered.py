"""The contrast's p with samples as clusters: tokens of one sample are not independent.

A feature's frequency is a ratio of sums over samples (firings / tokens), whose variance follows from
the spread of samples around that ratio (the linearised variance of a ratio estimator, Cochran,
"Sampling Techniques", 1977, section 6.3; the survey statistician's "design effect" is its ratio to
the variance of independent tokens). Only sums over samples are needed, so nothing is read twice.

Where samples themselves decide, because nothing varies within a set, because only one of the sets fires at
all, or because a sample has a single unit, no spread is estimated: Fisher's exact test over samples is the
exact answer to which samples are the target's (Fisher, "The Design of Experiments", 1935).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, log_ndtr, stdtr

from vlmdiff.hypergeometric.log_tail import log_tail

Array = np.ndarray
SMALLEST = 1e-290  # tails below it lose digits
ROUNDING = 1e-12  # of sums that are equal in whole numbers


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

    def spread(self, frequency: Array) -> Array:
        """Sum over samples of (x - frequency n) squared."""
        squares = self.fires_squares - 2 * frequency * self.fires_units
        return np.maximum(squares + frequency * frequency * self.units_squares, 0.0)

    @property
    def constant(self) -> Array:
        """Whether the feature fires on the same share of every sample, as it must on a single one.

        All are whole numbers: (x U - n X) is 0 for every sample, and so is the sum of its squares.
        """
        fires, units = (part.astype(np.float64) for part in (self.fires, self.units))
        whole = fires * fires * self.units_squares
        squares = units * units * self.fires_squares - 2 * fires * units * self.fires_units + whole
        return squares <= ROUNDING * whole

    @property
    def variance(self) -> Array:
        """Variance of the frequency with samples as clusters; 0 for a single sample, which shows none."""
        correction = self.samples / np.maximum(self.samples - 1.0, 1.0)
        spread = np.where(self.constant, 0.0, self.spread(self.frequency))
        return spread * correction / (self.units.astype(np.float64) ** 2)

    @property
    def binomial_variance(self) -> Array:
        """Variance of the frequency if units were independent."""
        p = self.frequency
        return p * (1 - p) / self.units


def variance_under_null(target: ClusterSums, baseline: ClusterSums) -> Array:
    """Variance of the difference of frequencies if all samples were of one kind, with their common spread.

    A sample's firings spread in proportion to its units, as they do where it fires throughout or not at all.
    """
    sides = (target, baseline)
    units = [side.units.astype(np.float64) for side in sides]
    squares = [side.units_squares.astype(np.float64) for side in sides]
    common = (target.fires + baseline.fires) / sum(units)
    samples = target.samples + baseline.samples
    spread = (target.spread(common) + baseline.spread(common)) * samples / np.maximum(samples - 1, 1)
    return (
        spread / np.maximum(sum(squares), 1.0) * sum(square / unit**2 for square, unit in zip(squares, units))
    )


def clustered_test(target: ClusterSums, baseline: ClusterSums) -> tuple[Array, Array]:
    """Test whether a feature fires more often in the target, with samples as clusters.

    Which samples are the target's is what chance decides. Where only sums over samples are needed to say
    how often it would decide so, the p is that of Fisher's exact test over samples (`exact_log_p`). Else
    the difference of frequencies over its standard error is held against Student's t:

    - The variance is that of two sets of their own spread or that of all samples together, the larger: ten
      samples that all fire show no spread, and yet are no more than ten.
    - The degrees of freedom are the samples on which the feature fires, less one: the others add no
      knowledge of its spread, and a feature that fires in three samples must not look certain.
    - No p is below that of the observed assignment itself (`assignment_log_p`).

    Returns:
        Natural logarithm of the one-sided p (0 where the sets do not differ), and the design effect.
    """
    difference = target.frequency - baseline.frequency
    own = target.variance + baseline.variance
    variance = np.maximum(own, variance_under_null(target, baseline))
    freedom = np.maximum(target.samples_fired + baseline.samples_fired - 1, 1)
    # Without any variance the test is exact, and the statistic is not used.
    statistic = difference / np.sqrt(np.where(variance > 0, variance, np.inf))
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = own / (target.binomial_variance + baseline.binomial_variance)
    estimated = np.maximum(log_t_tail(statistic, freedom), assignment_log_p(target, baseline))
    known, log_p = exact_log_p(target, baseline)
    return np.where(known, log_p, estimated), np.where(own > 0, effect, np.nan)


def exact_log_p(target: ClusterSums, baseline: ClusterSums) -> tuple[Array, Array]:
    """Return where Fisher's test over samples is exact, and the logarithm of its one-sided p.

    It is where a sample has one unit; where a set never fires, so that all samples that fire are in the
    other; and where no set varies, so that all samples of the one fire more than all of the other. In the
    last case those of the set that fires more count as firing.
    """
    difference = target.fires * baseline.units - baseline.fires * target.units
    constant = target.constant & baseline.constant
    single = (target.units == target.samples) & (baseline.units == baseline.samples)
    silent = (target.fires == 0) | (baseline.fires == 0)
    fired = np.where(constant, np.where(difference > 0, target.samples, 0), target.samples_fired)
    others = np.where(constant, np.where(difference < 0, baseline.samples, 0), baseline.samples_fired)
    known = constant | single | silent
    cells = (fired, target.samples - fired, others, baseline.samples - others)
    log_p = np.zeros(len(known))
    log_p[known] = log_tail(*(cell[known] for cell in cells))
    return known, log_p


def assignment_log_p(target: ClusterSums, baseline: ClusterSums) -> Array:
    """Return log of the share of assignments of samples to the sets that look like the observed one.

    Samples on which the feature never fires may change places with each other; nothing else is known to.
    A permutation test's p counts these assignments at least.
    """
    silent = [side.samples - side.samples_fired for side in (target, baseline)]
    return log_choose(silent[0] + silent[1], silent[0]) - log_choose(
        target.samples + baseline.samples, target.samples
    )


def log_choose(n: Array, k: Array) -> Array:
    """Natural logarithm of the binomial coefficient."""
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


def log_t_tail(t: Array, freedom: Array) -> Array:
    """Natural logarithm of P(T >= t) for Student's t, without underflow.

    Where the tail itself is too small for a float64, Wallace's normal deviate (Annals of Mathematical
    Statistics 30, 1959) stands in, whose logarithm is right to one per cent there.
    """
    tail = stdtr(freedom, -t)
    deviate = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(t * t / freedom))
    with np.errstate(divide="ignore"):
        return np.where(tail > SMALLEST, np.log(tail), log_ndtr(-np.sign(t) * deviate))

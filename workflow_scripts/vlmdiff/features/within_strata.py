"""Does a feature tell two kinds of samples apart within strata, such as those of one text?

Samples are compared within strata only, so nothing that is constant in a stratum, its text above all, can
tell them apart. The statistic is Mantel's extended one (Mantel, Journal of the American Statistical
Association 58, 1963): the sum over samples of (kind - mean kind of the stratum) x activation; for firings
it is the numerator of the Cochran-Mantel-Haenszel test.

Its variance is taken from the samples' own terms, added up by image before they are squared: samples of one
image depend on one another (Liang and Zeger, Biometrika 73, 1986). It is no smaller than the variance that
the same activations would give if the kinds were dealt anew within strata (of samples of different images
this is Mantel's own). Nothing is assumed of how activations are distributed. A sum over its own root of
squares cannot grow beyond the root of the number of images that add to it, so that a feature of few images
never looks certain.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from vlmdiff.features.clustered import log_t_tail

Array = np.ndarray
BLOCK_VALUES = 2**23  # activations held densely at once: 64 MB of float64
# Kinds that never overlap differ by infinitely many standard deviations.
LARGEST_EFFECT = 100.0
ROUNDING = 1e-3


@dataclass(frozen=True)
class Strata:
    """Samples of two kinds in strata, all arrays (samples,).

    Attributes:
        stratum: number of each sample's stratum.
        kind: whether the sample is of the one kind.
        image: number of the image that it shows.
    """

    stratum: Array
    kind: Array
    image: Array

    @cached_property
    def informative(self) -> Array:
        """Which samples lie in a stratum of both kinds; the others say nothing."""
        sizes, ones = (np.bincount(self.stratum, weights) for weights in (None, self.kind))
        return ((ones > 0) & (ones < sizes))[self.stratum]

    def take(self, rows: Array) -> Strata:
        """Return some of the samples, by a mask; strata and images are numbered anew."""
        parts = (self.stratum[rows], self.image[rows])
        stratum, image = (np.unique(part, return_inverse=True)[1] for part in parts)
        return Strata(stratum, self.kind[rows], image)

    @cached_property
    def sizes(self) -> Array:
        """Samples of each sample's stratum."""
        return np.bincount(self.stratum)[self.stratum]

    @cached_property
    def centred(self) -> Array:
        """The kind, less its mean in the stratum."""
        return self.kind - self.mean(self.kind[:, None].astype(np.float64))[:, 0]

    @cached_property
    def dealt(self) -> Array:
        """The kind's deviation if kinds were dealt anew in each stratum: its root mean square, signed."""
        share = self.kind - self.centred
        return np.sign(self.centred) * np.sqrt(share * (1 - share))

    @cached_property
    def is_balanced(self) -> bool:
        """Whether each stratum has as many samples of either kind, so that `dealt` is `centred`."""
        return bool(np.allclose(self.dealt, self.centred, rtol=0, atol=ROUNDING))

    @cached_property
    def member(self) -> csr_matrix:
        """(strata, samples), one where a sample lies in a stratum."""
        return indicator(self.stratum)

    @cached_property
    def shows(self) -> csr_matrix:
        """(images, samples), one where a sample shows an image."""
        return indicator(self.image)

    def mean(self, values: Array) -> Array:
        """Return for each sample the mean of its stratum, (samples, columns)."""
        return (self.member @ values / np.bincount(self.stratum)[:, None])[self.stratum]


def indicator(number: Array) -> csr_matrix:
    """Return the (numbers, elements) matrix that adds up elements of one number."""
    count = len(number)
    return csr_matrix((np.ones(count), (number, np.arange(count))), (int(number.max(initial=-1)) + 1, count))


@dataclass(frozen=True)
class Found:
    """What the comparison within strata finds, arrays of one shape (features,).

    Attributes:
        effect: difference of the one kind and the other within strata, in units of Cohen's d.
        log_p: natural logarithm of the two-sided p of the activations.
        log_p_firings: the same of the firings alone.
        odds_ratio: Mantel and Haenszel's common odds ratio of firing.
        fires: samples of the one kind on which the feature fires.
        fires_other: samples of the other kind on which it does.
    """

    effect: Array
    log_p: Array
    log_p_firings: Array
    odds_ratio: Array
    fires: Array
    fires_other: Array


def standardised(total: Array, values: Array, strata: Strata) -> Array:
    """Return Cohen's d: the mean difference within strata, over the standard deviation of samples of a kind.

    The deviation is that over all strata. One within strata would be small where a text decides nearly all of
    an activation, and the least trace of an image would look large. It counts as no smaller than a thousandth
    of the largest activation, so that rounding tells nothing.

    Args:
        total: sum over samples of (kind less its mean in the stratum) x activation.
        values: activations, (samples, features).
        strata: the samples.
    """
    difference = total / float(strata.centred @ strata.centred)
    squares = np.zeros(values.shape[1])
    for kind in (strata.kind, ~strata.kind):
        squares += ((values[kind] - values[kind].mean(0)) ** 2).sum(0)
    deviation = np.sqrt(squares / len(values))
    least = np.maximum(np.abs(difference) / LARGEST_EFFECT, ROUNDING * np.abs(values).max(0))
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(difference / np.maximum(deviation, least))


def spread(terms: Array, strata: Strata) -> tuple[Array, Array]:
    """Return the variance of a sum of terms, added up by image, and its degrees of freedom, (features,) both.

    A term is scaled by n / (n - 1) under the square, n samples in its stratum: two samples of one stratum
    deviate from their mean by the same amount and are one piece of knowledge. Degrees of freedom are the
    effective number of such pieces, less one (Satterthwaite, Biometrics Bulletin 2, 1946).

    Args:
        terms: products of deviations, (samples, features).
        strata: the samples.
    """
    scale = (strata.sizes / (strata.sizes - 1.0))[:, None]
    squares = terms * terms
    by_image = strata.shows @ (terms * np.sqrt(scale))
    variance, fourth = (by_image**2).sum(0), (by_image**4).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = squares.sum(0) / (squares * scale).sum(0)
        freedom = np.maximum(variance**2 / fourth * alone - 1, 1.0)
    return variance, np.where(np.isfinite(freedom), freedom, 1.0)


def score_test(deviation: Array, strata: Strata) -> tuple[Array, Array]:
    """Return the sum of products of deviations, and the logarithm of its two-sided p.

    The variance is the larger one of two: that of the terms as they are, and that which they would have if
    the kinds were dealt anew. The first alone is far too small where a kind is rare and the feature fires on
    none of its samples: all their terms are then alike.

    Args:
        deviation: activations less their mean in the stratum, (samples, features).
        strata: the samples.
    """
    terms = strata.centred[:, None] * deviation
    total, (variance, freedom) = terms.sum(0), spread(terms, strata)
    if not strata.is_balanced:
        dealt, its_freedom = spread(strata.dealt[:, None] * deviation, strata)
        larger = dealt > variance
        variance, freedom = np.where(larger, dealt, variance), np.where(larger, its_freedom, freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(variance > 0, np.abs(total) / np.sqrt(variance), 0.0)
    return total, np.minimum(np.log(2) + log_t_tail(t, freedom), 0.0)


def compare_block(values: Array, fires: Array, strata: Strata) -> Found:
    """Compare two kinds of samples by a block of features.

    Args:
        values: activations or differences of activations, (samples, features).
        fires: where the feature fires, of the same shape.
        strata: the samples; each stratum has both kinds.
    """
    fires = fires.astype(np.float64)
    deviation = values - strata.mean(values)
    total, log_p = score_test(deviation, strata)
    _, log_p_firings = score_test(fires - strata.mean(fires), strata)
    kind = strata.kind[:, None]
    # Mantel and Haenszel: sum of (ones that fire) (others that do not) / n over the same crosswise.
    ones, others = (strata.member @ (fires * part) for part in (kind, ~kind))
    n_ones, n_others = (strata.member @ part.astype(np.float64) for part in (kind, ~kind))
    n = n_ones + n_others
    with np.errstate(divide="ignore", invalid="ignore"):
        odds_ratio = (ones * (n_others - others) / n).sum(0) / (others * (n_ones - ones) / n).sum(0)
    return Found(
        effect=standardised(total, values, strata),
        log_p=log_p,
        log_p_firings=log_p_firings,
        odds_ratio=odds_ratio,
        fires=ones.sum(0).astype(np.int64),
        fires_other=others.sum(0).astype(np.int64),
    )


def compare(values: csc_matrix, strata: Strata, active: csc_matrix | None = None) -> Found:
    """Compare two kinds of samples by every feature.

    Args:
        values: activations or differences of activations, (samples, features).
        strata: the samples; each stratum has both kinds.
        active: above 0 where a feature fires, of the same shape; `values` themselves if left out.
    """
    active = values if active is None else active
    width = max(1, BLOCK_VALUES // max(1, values.shape[0]))
    starts = range(0, values.shape[1], width)
    parts = ([part[:, start : start + width].toarray() for part in (values, active)] for start in starts)
    blocks = [compare_block(block, fires > 0, strata) for block, fires in parts]
    columns = ([getattr(block, field.name) for block in blocks] for field in fields(Found))
    return Found(*map(np.concatenate, columns))


def least_log_p(pieces: float) -> float:
    """Return the smallest logarithm of a p that so many independent pieces of knowledge can give."""
    return float(np.log(2) + log_t_tail(np.sqrt(pieces), np.maximum(pieces - 1.0, 1.0)))

"""Which features tell the values of a label apart, by comparisons within strata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix

from vlmdiff.data.identity import image_identity
from vlmdiff.data.samples import Sample
from vlmdiff.features.contrast import adjust_log_p
from vlmdiff.features.matched_tests import Keys, MatchedTest, matched_tests
from vlmdiff.features.within_strata import compare
from vlmdiff.runtime.progress import progress

FEATURE = ["layer", "feature"]


@dataclass(frozen=True)
class LabelCriteria:
    """What a feature must reach to be selected.

    Attributes:
        min_effect_size: smallest Cohen's d within strata.
        min_frequency: smallest share of the compared samples on which it fires.
        fdr: largest Benjamini-Hochberg adjusted p.
    """

    min_effect_size: float
    min_frequency: float
    fdr: float


@dataclass(frozen=True)
class Measured:
    """What the features of a layer do on some samples.

    Attributes:
        values: activations, or differences between two images of a sample, (samples, features).
        active: above 0 where a feature fires; None if `values` are activations.
    """

    values: csc_matrix
    active: csc_matrix | None = None

    def take(self, rows: np.ndarray) -> tuple[csc_matrix, csc_matrix | None]:
        """Return the rows of some samples."""
        return self.values[rows], None if self.active is None else self.active[rows]


def tested(measured: Measured, test: MatchedTest) -> pd.DataFrame:
    """Return what one comparison finds, a row a feature, turned to the value on which it fires more.

    Args:
        measured: of all samples.
        test: the comparison.
    """
    values, active = measured.take(test.rows)
    found = compare(values, test.strata, active)
    more = found.effect >= 0
    n = int(test.strata.kind.sum())
    n_other = len(test.rows) - n
    with np.errstate(divide="ignore"):
        turned = 1 / found.odds_ratio
    return pd.DataFrame(
        {
            "feature": np.arange(values.shape[1]),
            "level": test.level,
            "value": np.where(more, test.value, test.other),
            "fires_target": np.where(more, found.fires, found.fires_other),
            "n_target": np.where(more, n, n_other),
            "fires_baseline": np.where(more, found.fires_other, found.fires),
            "n_baseline": np.where(more, n_other, n),
            "odds_ratio": np.where(more, found.odds_ratio, turned),
            "effect_size": np.abs(found.effect),
            "log_p": found.log_p,
            "log_p_firings": found.log_p_firings,
        }
    )


def strongest_test(measured: Measured, tests: Sequence[MatchedTest]) -> pd.DataFrame:
    """Return for each feature the comparison of the least p, corrected for their number (Bonferroni)."""
    table = pd.concat([tested(measured, test) for test in tests], ignore_index=True)
    order, rising = ["feature", "log_p", "effect_size"], [True, True, False]
    table = table.sort_values(order, ascending=rising, kind="stable")
    best = table.groupby("feature", sort=False).head(1).reset_index(drop=True)
    for name in ("log_p", "log_p_firings"):
        best[name] = np.minimum(best[name] + np.log(len(tests)), 0.0)
    return best


def certain(table: pd.DataFrame, min_frequency: float, fdr: float) -> pd.Series:
    """Tell which features keep a frequency and a false discovery rate, whatever the size of their effect.

    Args:
        table: firings and sizes of both sides, and log_p_adjusted (contract CONTRAST).
        min_frequency, fdr: see `LabelCriteria`.
    """
    fires, count = (table[f"{name}_target"] + table[f"{name}_baseline"] for name in ("fires", "n"))
    with np.errstate(divide="ignore"):
        return (table["log_p_adjusted"] <= np.log(fdr)) & (fires / count >= min_frequency)


def decide(table: pd.DataFrame, features: int, criteria: LabelCriteria) -> pd.DataFrame:
    """Add frequencies, adjusted p and the selection (contract CONTRAST, without `concept`).

    Args:
        table: one row a feature that fires on a compared sample.
        features: number of features of all layers, silent ones included; each is one test.
        criteria: what a selected feature must reach.
    """
    adjusted = adjust_log_p(table["log_p"].to_numpy(), features)
    table = table.assign(log_p_adjusted=adjusted)
    selected = certain(table, criteria.min_frequency, criteria.fdr) & (
        table["effect_size"] >= criteria.min_effect_size
    )
    frequencies = [table[f"fires_{side}"] / table[f"n_{side}"] for side in ("target", "baseline")]
    return table.assign(
        unit="sample",
        freq_target=frequencies[0],
        freq_baseline=frequencies[1],
        freq_difference=frequencies[0] - frequencies[1],
        selected=selected,
        # Images are clusters in the test itself.
        design_effect=np.nan,
        log_p_clustered=table["log_p"],
        log_p_clustered_adjusted=adjusted,
        selected_clustered=selected,
    )


def images_of(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield what tells the image of each sample; without one it is its text, which is all that is shown."""
    for sample in samples:
        yield image_identity(sample) or f"text {sample.prompt}"


def label_contrast(
    samples: Sequence[Sample],
    layers: Iterable[tuple[int, Measured]],
    count: int,
    keys: Keys,
    criteria: LabelCriteria,
) -> pd.DataFrame:
    """Test which features tell the values of a label apart.

    Args:
        samples: what is compared.
        layers: each layer with what its features do on the samples.
        count: number of layers.
        keys: label, strata, and what is tested apart.
        criteria: what a selected feature must reach.

    Returns:
        Rows of contract CONTRAST without `concept`, of the features that fire on a compared sample.

    Raises:
        MatchedError: a key is not there, or no stratum holds different values in enough images.
    """
    records = [sample.model_dump() for sample in samples]
    tests = matched_tests(records, list(images_of(samples)), keys, criteria.fdr)
    features, frames = 0, []
    for layer, measured in progress(layers, "layers", count):
        features += measured.values.shape[1]
        best = strongest_test(measured, tests)
        frames.append(best[best["fires_target"] + best["fires_baseline"] > 0].assign(layer=layer))
    table = pd.concat(frames, ignore_index=True).sort_values(FEATURE, ignore_index=True)
    return decide(table, features, criteria)


def of_config(values: Mapping[str, object]) -> tuple[Keys, LabelCriteria]:
    """Return the keys and the limits that a concept of the configuration names."""
    return tuple(
        kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
        for kind in (Keys, LabelCriteria)
    )

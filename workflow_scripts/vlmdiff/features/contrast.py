"""Which features fire more often on a concept than on a baseline (docs/understand/method.md section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.features.clustered import ClusterSums, clustered_test
from vlmdiff.features.sums import SampleSet, SampleSetError, text_sums, text_totals
from vlmdiff.hypergeometric.log_tail import log_tail
from vlmdiff.tables.features import CONTRAST, TOTALS
from vlmdiff.tables.io import read_tables, write_table

Array = np.ndarray
# Unit of counting, its column of firings, its column of totals.
UNITS = (("token", "fires", "n_tokens"), ("sample", "samples_fired", "n_samples"))
# For each unit the columns of ClusterSums, firings from the sums and units from the totals.
CLUSTERS = {
    "token": (("fires", "sum_fires_squares", "sum_fires_tokens"), ("n_tokens", "sum_tokens_squares")),
    # A sample is a cluster of one: x is 0 or 1, n is 1.
    "sample": (("samples_fired",) * 3, ("n_samples",) * 2),
}


@dataclass(frozen=True)
class Criteria:
    """What a feature must reach to be selected."""

    min_odds_ratio: float
    min_frequency_difference: float
    fdr: float


def fisher_log_p(fires_target: Array, n_target: Array, fires_baseline: Array, n_baseline: Array) -> Array:
    """Natural log of the one-sided ("greater") Fisher exact p, for many tables.

    Never underflows: p = 10**-1000000 keeps ten digits of its logarithm.

    Args:
        fires_target: units of the target set on which the feature fires.
        n_target: units of the target set.
        fires_baseline: units of the baseline set on which it fires.
        n_baseline: units of the baseline set.

    Raises:
        ValueError: more firings than units, or totals beyond exact arithmetic.
    """
    columns = (np.asarray(x, np.int64) for x in (fires_target, n_target, fires_baseline, n_baseline))
    target, total_target, baseline, total_baseline = np.broadcast_arrays(*columns)
    return log_tail(target, total_target - target, baseline, total_baseline - baseline)


def adjust_log_p(log_p: Array, tests: int) -> Array:
    """Benjamini-Hochberg adjusted p in logarithms (Benjamini and Hochberg 1995).

    Args:
        log_p: log p of some tests, (n,).
        tests: number of all tests; those not in `log_p` have p = 1.
    """
    order = np.argsort(log_p, kind="stable")
    scaled = log_p[order] + np.log(tests) - np.log(np.arange(1, len(log_p) + 1))
    adjusted = np.empty(len(log_p))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 0.0)
    return adjusted


def odds_ratios(target: Array, n_target: Array, baseline: Array, n_baseline: Array) -> Array:
    """Return sample odds ratios: inf where the denominator is 0, NaN where numerator is 0 too."""
    numerator = target.astype(np.float64) * (n_baseline - baseline)
    denominator = (n_target - target).astype(np.float64) * baseline
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / denominator


def contrast_unit(counts: pd.DataFrame, unit: str, tests: int, criteria: Criteria) -> pd.DataFrame:
    """Add what follows from the counts (contract CONTRAST, without `concept` and the clustered test).

    Args:
        counts: layer, feature, fires_target, n_target, fires_baseline, n_baseline.
        unit: token or sample.
        tests: number of features of all layers, silent ones included.
        criteria: what a selected feature must reach.
    """
    cells = [counts[name].to_numpy() for name in ("fires_target", "n_target", "fires_baseline", "n_baseline")]
    target, n_target, baseline, n_baseline = cells
    log_p, odds_ratio = fisher_log_p(*cells), odds_ratios(*cells)
    with np.errstate(divide="ignore"):
        # A logistic variable's standard deviation is pi / sqrt(3) (Chinn, Stat. in Medicine 19, 2000).
        effect_size = np.log(odds_ratio) * np.sqrt(3) / np.pi
    frame = counts.assign(
        unit=unit,
        level="",
        value="",
        effect_size=effect_size,
        odds_ratio=odds_ratio,
        freq_target=target / n_target,
        freq_baseline=baseline / n_baseline,
        freq_difference=target / n_target - baseline / n_baseline,
        log_p_firings=log_p,
        log_p=log_p,
        log_p_adjusted=adjust_log_p(log_p, tests),
    )
    frame["selected"] = meets(frame, criteria) & significant(frame["log_p_adjusted"], criteria)
    return frame


def meets(frame: pd.DataFrame, criteria: Criteria) -> pd.Series:
    """Tell which features reach the effect sizes."""
    return (frame["odds_ratio"] >= criteria.min_odds_ratio) & (
        frame["freq_difference"] >= criteria.min_frequency_difference
    )


def significant(log_p_adjusted: pd.Series, criteria: Criteria) -> pd.Series:
    """Tell which adjusted p are within the false discovery rate."""
    with np.errstate(divide="ignore"):
        return log_p_adjusted <= np.log(criteria.fdr)


def cluster_sums(side: Side, index: pd.MultiIndex, unit: str) -> ClusterSums:
    """Return the sums over samples of one side, for the features of `index`."""
    (fires, squares, products), (units, units_squares) = CLUSTERS[unit]
    sums = side.sums.reindex(index, fill_value=0)
    totals = side.totals.reindex(index.get_level_values("layer"))
    return ClusterSums(
        fires=sums[fires].to_numpy(),
        units=totals[units].to_numpy(),
        fires_squares=sums[squares].to_numpy(),
        fires_units=sums[products].to_numpy(),
        units_squares=totals[units_squares].to_numpy(),
        samples=totals["n_samples"].to_numpy(),
        samples_fired=sums["samples_fired"].to_numpy(),
    )


def add_clustered(
    frame: pd.DataFrame,
    sides: tuple[Side, Side],
    index: pd.MultiIndex,
    unit: str,
    tests: int,
    criteria: Criteria,
) -> pd.DataFrame:
    """Add the test with samples as clusters."""
    log_p, effect = clustered_test(*(cluster_sums(side, index, unit) for side in sides))
    frame = frame.assign(design_effect=effect, log_p_clustered=log_p)
    frame["log_p_clustered_adjusted"] = adjust_log_p(log_p, tests)
    passed = significant(frame["log_p_clustered_adjusted"], criteria)
    return frame.assign(selected_clustered=meets(frame, criteria) & passed)


@dataclass(frozen=True)
class Side:
    """Firings and totals of the target or the baseline."""

    sums: pd.DataFrame
    totals: pd.DataFrame
    groups: set[str]


def load_side(statistics: Sequence[str | Path], totals: Sequence[str | Path], sample_set: SampleSet) -> Side:
    """Add up the statistics of a set of samples.

    Raises:
        SampleSetError: the set names unknown groups, or has no text tokens.
    """
    groups = sample_set.choose(set(read_tables(totals, TOTALS, ["group"])["group"]))
    side = Side(text_sums(statistics, groups), text_totals(totals, sample_set), groups)
    if side.totals.empty:
        raise SampleSetError(f"data set '{sample_set.dataset}', groups {sorted(groups)}: no text tokens")
    return side


def check_disjoint(target: SampleSet, baseline: SampleSet, sides: tuple[Side, Side]) -> None:
    """Refuse sets that share samples: Fisher's test needs two separate samples.

    Raises:
        SampleSetError: naming the shared groups.
    """
    shared = sorted(sides[0].groups & sides[1].groups)
    if target.dataset == baseline.dataset and shared:
        raise SampleSetError(
            f"target and baseline share groups {shared} of data set '{target.dataset}'; "
            "leave them out of the baseline by `without`"
        )


def contrast_table(target: Side, baseline: Side, tests: int, criteria: Criteria) -> pd.DataFrame:
    """Contrast all features that fire in either set, per token and per sample.

    Args:
        target, baseline: what is held against what.
        tests: number of features of all layers, silent ones included.
        criteria: what a selected feature must reach.

    Returns:
        Rows of contract CONTRAST without `concept`, sorted by unit, layer and feature.
    """
    index = target.sums.index.union(baseline.sums.index).sort_values()
    keys = index.to_frame(index=False)
    frames = []
    for unit, fires, total in UNITS:
        counts = keys.copy()
        for name, side in (("target", target), ("baseline", baseline)):
            counts[f"fires_{name}"] = side.sums[fires].reindex(index, fill_value=0).to_numpy()
            counts[f"n_{name}"] = side.totals[total].reindex(keys["layer"]).to_numpy()
        frame = contrast_unit(counts, unit, tests, criteria)
        frames.append(add_clustered(frame, (target, baseline), index, unit, tests, criteria))
    return pd.concat(frames, ignore_index=True)


def contrast_concept(
    concept: str,
    target: dict,
    baseline: dict,
    target_files: tuple[Sequence[str | Path], Sequence[str | Path]],
    baseline_files: tuple[Sequence[str | Path], Sequence[str | Path]],
    tests: int,
    criteria: dict,
    output: str | Path,
) -> None:
    """Write the contrast of one concept.

    Args:
        concept: its name.
        target: sample set of the concept (`dataset`, `groups`, `without`).
        baseline: sample set that it is held against.
        target_files: STATISTICS and TOTALS tables of the target's data set, one each a layer.
        baseline_files: the same for the baseline's.
        tests: features of all layers, silent ones included; each is one test.
        criteria: `min_odds_ratio`, `min_frequency_difference`, `fdr`.
        output: path of the table CONTRAST.

    Raises:
        SampleSetError: a set is empty or names unknown groups, or the two share samples.
    """
    sets = SampleSet.of(target), SampleSet.of(baseline)
    sides = load_side(*target_files, sets[0]), load_side(*baseline_files, sets[1])
    check_disjoint(*sets, sides)
    table = contrast_table(*sides, tests, Criteria(**criteria))
    write_table(table.assign(concept=concept), CONTRAST, output)

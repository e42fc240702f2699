"""Which features count as adapted: the paper's percentile rule and the null-calibrated one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.tables.features import ADAPTED, FEATURE_DIFF, THRESHOLD_SWEEP, THRESHOLDS
from vlmdiff.tables.io import read_table, write_table

Array = np.ndarray
log = logging.getLogger(__name__)


def percentile_threshold(cosines: Array, percentile: float) -> float:
    """Return the percentile of the cosines of all layers' features; NaN if there are none."""
    known = cosines[~np.isnan(cosines)]
    return float(np.percentile(known, percentile)) if len(known) else float("nan")


def calibrated_threshold(null_cosines: Array, visual_energy: Array, eps: float, quantile: float) -> float:
    """Return the quantile of the null's cosines over live features, pooled over layers.

    Live features are those with visual energy above `eps`: the only ones that the rule can select,
    hence the ones whose false-positive rate must be bounded. Features that never fire hardly move
    in fine-tuning, and would push the threshold towards 1.
    """
    return percentile_threshold(null_cosines[visual_energy > eps], 100 * quantile)


def rotated(cosines: Array, visual_energy: Array, tau: float, eps: float) -> Array:
    """Apply a rule: energy above `eps` and cosine at or below `tau`; False where either is NaN."""
    return (visual_energy > eps) & (cosines <= tau)


def ratio(part: float, whole: float) -> float:
    """Divide; NaN when there is nothing to divide by."""
    return part / whole if whole else float("nan")


def threshold_row(diff: pd.DataFrame, rule: str, tau: float, eps: float) -> dict:
    """Say what one rule selects, and what it would select of the null (contract THRESHOLDS)."""
    energy = diff["visual_energy"].to_numpy()
    visual = int((energy > eps).sum())
    null_adapted = int(rotated(diff["null_cos_decoder"].to_numpy(), energy, tau, eps).sum())
    checked = diff["check_cos_decoder"].to_numpy()
    check = float("nan") if np.isnan(checked).all() else float(rotated(checked, energy, tau, eps).sum())
    low, high = proportion_confint(check, visual, method="wilson") if visual else (check, check)
    return {
        "seed": int(diff["seed"].iloc[0]),
        "rule": rule,
        "tau": tau,
        "eps": eps,
        "features": len(diff),
        "visual": visual,
        "adapted": int(rotated(diff["cos_decoder"].to_numpy(), energy, tau, eps).sum()),
        "null_adapted": null_adapted,
        "null_false_positive_rate": ratio(null_adapted, visual),
        "check_adapted": check,
        "check_false_positive_rate": ratio(check, visual),
        "check_low": float(low),
        "check_high": float(high),
    }


def compare(selected: Array, chosen: Array, layer: Array) -> dict[str, float]:
    """Compare a selection with the chosen one: overlap, and counts by layer."""
    both = int((selected & chosen).sum())
    counts = [np.bincount(layer, weights=mask) for mask in (selected, chosen)]
    present = np.unique(layer)
    counts = [count[present] for count in counts]
    varied = len(present) > 1 and all(count.std() > 0 for count in counts)
    return {
        "adapted": int(selected.sum()),
        "jaccard": ratio(both, int((selected | chosen).sum())),
        "retention": ratio(both, int(chosen.sum())),
        "precision": ratio(both, int(selected.sum())),
        "layer_correlation": float(np.corrcoef(*counts)[0, 1]) if varied else float("nan"),
    }


def sweep(
    diff: pd.DataFrame,
    eps: float,
    percentile: float,
    sweep_eps: Sequence[float],
    sweep_percentiles: Sequence[float],
) -> pd.DataFrame:
    """Apply the percentile rule on a grid, against its choice at (eps, percentile)."""
    cosines, energy = diff["cos_decoder"].to_numpy(), diff["visual_energy"].to_numpy()
    layer, seed = diff["layer"].to_numpy(), int(diff["seed"].iloc[0])
    chosen = rotated(cosines, energy, percentile_threshold(cosines, percentile), eps)
    rows = []
    for other in sweep_percentiles:
        tau = percentile_threshold(cosines, other)
        for other_eps in sweep_eps:
            comparison = compare(rotated(cosines, energy, tau, other_eps), chosen, layer)
            rows.append({"seed": seed, "eps": other_eps, "percentile": other, "tau": tau, **comparison})
    return pd.DataFrame(rows)


def select_adapted(
    diff_file: str | Path,
    outputs: Sequence[str | Path],
    eps: float,
    percentile: float,
    null_quantile: float,
    rule: str,
    sweep_eps: Sequence[float],
    sweep_percentiles: Sequence[float],
) -> None:
    """Write both rules' decisions, their thresholds, and the sweep of the percentile rule.

    Args:
        diff_file: table FEATURE_DIFF.
        outputs: paths of the tables ADAPTED, THRESHOLDS and THRESHOLD_SWEEP.
        eps: visual energy above which a feature counts as active on images.
        percentile: percentile rule, in percent.
        null_quantile: calibrated rule, a fraction.
        rule: `percentile`, `calibrated` or `energy`, the one that later stages use.
        sweep_eps: energies of the sweep.
        sweep_percentiles: percentiles of the sweep.
    """
    diff = read_table(diff_file, FEATURE_DIFF)
    cosines, energy = diff["cos_decoder"].to_numpy(), diff["visual_energy"].to_numpy()
    taus = {
        "percentile": percentile_threshold(cosines, percentile),
        "calibrated": calibrated_threshold(diff["null_cos_decoder"].to_numpy(), energy, eps, null_quantile),
    }
    if not (energy > eps).any():
        log.warning(
            "no feature has visual energy above %g (the largest is %g), so none is adapted; lower diff.eps",
            eps,
            energy.max(),
        )
    for name, tau in taus.items():
        diff[f"adapted_{name}"] = rotated(cosines, energy, tau, eps)
    # Every cosine is at most 1: without a rotation asked for, visual energy decides alone.
    taus |= {"energy": 1.0} if rule == "energy" else {}
    diff["adapted"] = rotated(cosines, energy, taus[rule], eps)
    adapted_file, thresholds_file, sweep_file = outputs
    thresholds = pd.DataFrame([threshold_row(diff, name, tau, eps) for name, tau in taus.items()])
    write_table(diff, ADAPTED, adapted_file)
    write_table(thresholds, THRESHOLDS, thresholds_file)
    write_table(sweep(diff, eps, percentile, sweep_eps, sweep_percentiles), THRESHOLD_SWEEP, sweep_file)

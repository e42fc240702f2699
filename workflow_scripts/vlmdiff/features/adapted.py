"""Which features count as adapted: the paper's percentile rule and the null-calibrated one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.tables.features import ADAPTED, FEATURE_DIFF, THRESHOLD_SWEEP, THRESHOLDS
from vlmdiff.tables.io import read_table, write_table

Array = np.ndarray
# Layer of the rows that count all layers together.
ALL_LAYERS = -1
log = logging.getLogger(__name__)


def percentile_threshold(cosines: Array, percentile: float) -> float:
    """Return the percentile of the cosines of all layers' features; NaN if there are none."""
    known = cosines[~np.isnan(cosines)]
    return float(np.percentile(known, percentile)) if len(known) else float("nan")


def null_features(rows: pd.DataFrame, eps: float) -> Array:
    """Tell which features of the null stand for what the rule can select.

    Where features keep their index these are live, calibrated ones. Live features are those with visual
    energy above `eps`: the only ones that the rule can select, hence the ones whose false-positive rate must
    be bounded. Features that the null's text never fired did not move in it and say nothing about its drift.
    Features of a crosscoder's null have an index of their own: all that have a similarity stand for it.

    Args:
        rows: rows of FEATURE_DIFF.
        eps: visual energy above which a feature is live.
    """
    if "relative_norm" in rows and rows["relative_norm"].notna().any():
        return rows["null_similarity"].notna().to_numpy()
    return ((rows["visual_energy"] > eps) & rows["calibrated"]).to_numpy()


def calibrated_threshold(diff: pd.DataFrame, eps: float, quantile: float) -> float:
    """Return the quantile of the similarities of the null's features, pooled over layers.

    Args:
        diff: FEATURE_DIFF.
        eps: visual energy above which a feature is live.
        quantile: a fraction.
    """
    known = diff[null_features(diff, eps)]
    return percentile_threshold(known["null_similarity"].to_numpy(), 100 * quantile)


def rotated(cosines: Array, visual_energy: Array, tau: float, eps: float) -> Array:
    """Apply a rule: energy above `eps` and similarity at or below `tau`; False where either is NaN."""
    return (visual_energy > eps) & (cosines <= tau)


def ratio(part: float, whole: float) -> float:
    """Divide; NaN when there is nothing to divide by."""
    return part / whole if whole else float("nan")


def more_often(first: Array, second: Array) -> float:
    """Return the exact one-sided p of McNemar's test that the first of two decisions is made more often.

    Of the features on which the two differ, half would have either if the rates were equal.

    Args:
        first, second: (n,) decisions on the same features.

    Source: McNemar 1947; exact by the binomial distribution.
    """
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return (
        float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue) if gained + lost else 1.0
    )


def second_null(rows: pd.DataFrame, selected: Array, tau: float, eps: float) -> dict[str, float]:
    """Return what a rule would select of the second null, among features that either null moved.

    Args:
        rows: rows of FEATURE_DIFF.
        selected: (n,) what the rule selects of the adapted dictionary.
        tau, eps: its thresholds.
    """
    names = ("check_visual", "check_vlm_adapted", "check_adapted", "check_false_positive_rate")
    names += ("check_low", "check_high", "check_p")
    if rows["check_cos_decoder"].isna().all():
        return dict.fromkeys(names, float("nan"))
    energy = rows["visual_energy"].to_numpy()
    known = (energy > eps) & rows["calibrated"].to_numpy() & rows["check_calibrated"].to_numpy()
    wrong = known & rotated(rows["check_cos_decoder"].to_numpy(), energy, tau, eps)
    count, found = int(known.sum()), int(wrong.sum())
    low, high = proportion_confint(found, count, method="wilson") if count else (float("nan"),) * 2
    p = more_often(known & selected, wrong)
    values = (count, int((known & selected).sum()), found, ratio(found, count), float(low), float(high), p)
    return dict(zip(names, map(float, values), strict=True))


def never_tuned(rows: pd.DataFrame, selected: Array, tau: float, eps: float) -> dict[str, float]:
    """Return what a rule would select of the model that was never tuned; arguments as for `second_null`."""
    names = ("untuned_adapted", "untuned_rate", "adapted_also_untuned")
    cosines, energy = rows["untuned_cos_decoder"].to_numpy(), rows["visual_energy"].to_numpy()
    if np.isnan(cosines).all():
        return dict.fromkeys(names, float("nan"))
    wrong = rotated(cosines, energy, tau, eps)
    values = (wrong.sum(), ratio(int(wrong.sum()), int((energy > eps).sum())), (wrong & selected).sum())
    return dict(zip(names, map(float, values), strict=True))


def textual_before(rows: pd.DataFrame, visual: Array, selected: Array) -> dict[str, float]:
    """Return how many features had more energy on plain text than on questions before tuning.

    Args:
        rows: rows of FEATURE_DIFF.
        visual: (n,) features that fire on samples with images.
        selected: (n,) what a rule selects of them.
    """
    if "text_energy_before" not in rows or rows["text_energy_before"].isna().all():
        return dict.fromkeys(("visual_textual", "adapted_textual"), float("nan"))
    textual = (rows["text_energy_before"] > rows["visual_energy_before"]).to_numpy()
    return {
        "visual_textual": float((textual & visual).sum()),
        "adapted_textual": float((textual & selected).sum()),
    }


def threshold_row(rows: pd.DataFrame, rule: str, tau: float, eps: float, layer: int = ALL_LAYERS) -> dict:
    """Say what one rule selects, and what it would select of the nulls (contract THRESHOLDS).

    Args:
        rows: rows of FEATURE_DIFF, of one layer or of all.
        rule: name of the rule.
        tau, eps: its thresholds.
        layer: the decoder block of the rows.
    """
    energy, known = rows["visual_energy"].to_numpy(), rows["calibrated"].to_numpy()
    visual, selected = energy > eps, rotated(rows["similarity"].to_numpy(), energy, tau, eps)
    null = null_features(rows, eps)
    null_adapted = int((null & (rows["null_similarity"].to_numpy() <= tau)).sum())
    return {
        "seed": int(rows["seed"].iloc[0]),
        "rule": rule,
        "layer": layer,
        "tau": tau,
        "eps": eps,
        "features": len(rows),
        "visual": int(visual.sum()),
        "visual_uncalibrated": int((visual & ~known).sum()),
        "adapted": int(selected.sum()),
        "adapted_uncalibrated": int((selected & ~known).sum()),
        "null_adapted": null_adapted,
        "null_false_positive_rate": ratio(null_adapted, int(null.sum())),
        **second_null(rows, selected, tau, eps),
        **never_tuned(rows, selected, tau, eps),
        **textual_before(rows, visual, selected),
    }


def threshold_rows(diff: pd.DataFrame, rule: str, tau: float, eps: float) -> list[dict]:
    """Return what one rule selects over all layers, then in each (contract THRESHOLDS)."""
    whole = threshold_row(diff, rule, tau, eps)
    return [whole, *(threshold_row(part, rule, tau, eps, layer) for layer, part in diff.groupby("layer"))]


def compare_selections(selected: Array, chosen: Array, layer: Array) -> dict[str, float]:
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


def sweep_thresholds(
    diff: pd.DataFrame,
    eps: float,
    percentile: float,
    sweep_eps: Sequence[float],
    sweep_percentiles: Sequence[float],
) -> pd.DataFrame:
    """Apply the percentile rule on a grid, against its choice at (eps, percentile)."""
    cosines, energy = diff["similarity"].to_numpy(), diff["visual_energy"].to_numpy()
    layer, seed = diff["layer"].to_numpy(), int(diff["seed"].iloc[0])
    chosen = rotated(cosines, energy, percentile_threshold(cosines, percentile), eps)
    rows = []
    for other in sweep_percentiles:
        tau = percentile_threshold(cosines, other)
        for other_eps in sweep_eps:
            selected = rotated(cosines, energy, tau, other_eps)
            row = {"seed": seed, "eps": other_eps, "percentile": other, "tau": tau}
            row["uncalibrated"] = int((selected & ~diff["calibrated"]).sum())
            rows.append(row | compare_selections(selected, chosen, layer))
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
    cosines, energy = diff["similarity"].to_numpy(), diff["visual_energy"].to_numpy()
    taus = {
        "percentile": percentile_threshold(cosines, percentile),
        "calibrated": calibrated_threshold(diff, eps, null_quantile),
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
    rows = [row for name, tau in taus.items() for row in threshold_rows(diff, name, tau, eps)]
    thresholds = pd.DataFrame(rows)
    write_table(diff, ADAPTED, adapted_file)
    write_table(thresholds, THRESHOLDS, thresholds_file)
    write_table(
        sweep_thresholds(diff, eps, percentile, sweep_eps, sweep_percentiles), THRESHOLD_SWEEP, sweep_file
    )

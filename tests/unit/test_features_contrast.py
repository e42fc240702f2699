"""The contrast: published figures, Benjamini-Hochberg, sets of samples, the whole table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feature_tables import write_statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, fisher_exact
from statsmodels.stats.multitest import multipletests

from vlmdiff.features.contrast import (
    Criteria,
    adjust_log_p,
    contrast_concept,
    contrast_unit,
    fisher_log_p,
    odds_ratios,
)
from vlmdiff.features.sums import SampleSet, SampleSetError
from vlmdiff.tables.features import CONTRAST
from vlmdiff.tables.io import read_table

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
CRITERIA = {"min_odds_ratio": 3.0, "min_frequency_difference": 0.005, "fdr": 0.05}


def reference(unit: str) -> pd.DataFrame:
    published = pd.read_csv(REFERENCE / f"paligemma2_{unit}_contrast.csv")
    counts = published.rename(
        columns={
            "c_vsr": "fires_target",
            "n_vsr": "n_target",
            "c_vqa": "fires_baseline",
            "n_vqa": "n_baseline",
        }
    )
    keys = ["layer", "feature", "fires_target", "n_target", "fires_baseline", "n_baseline"]
    return published, contrast_unit(counts[keys], unit, 26 * 16_384, Criteria(**CRITERIA))


def test_published_token_contrast():
    published, ours = reference("token")
    for mine, theirs in (
        ("odds_ratio", "odds_ratio"),
        ("freq_target", "freq_vsr"),
        ("freq_baseline", "freq_vqa"),
        ("freq_difference", "freq_diff"),
    ):
        np.testing.assert_allclose(ours[mine], published[theirs], rtol=1e-12)
    assert np.isfinite(ours["log_p"]).all()
    assert (ours["log_p"] < np.log(np.finfo(float).tiny)).all()
    assert ours["log_p"].nunique() == len(ours)
    assert ours["selected"].all()


def test_published_sample_contrast():
    published, ours = reference("sample")
    assert np.isinf(ours["odds_ratio"]).all()
    np.testing.assert_allclose(np.exp(ours["log_p"]), published["p_raw"], rtol=1e-8)


def test_fisher_broadcasts_totals():
    found = fisher_log_p(np.array([5, 6]), 20, np.array([1, 2]), 30)
    expected = [
        fisher_exact([[5, 15], [1, 29]], "greater")[1],
        fisher_exact([[6, 14], [2, 28]], "greater")[1],
    ]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)


def test_more_firings_than_units_are_refused():
    with pytest.raises(ValueError, match="more firings than units"):
        fisher_log_p(np.array([21]), 20, np.array([1]), 30)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=50), st.integers(0, 30))
def test_adjustment_agrees_with_peers(p, silent):
    found = np.exp(adjust_log_p(np.log(p), len(p) + silent))
    everything = np.array(p + [1.0] * silent)
    np.testing.assert_allclose(found, false_discovery_control(everything)[: len(p)], rtol=1e-12)
    np.testing.assert_allclose(found, multipletests(everything, method="fdr_bh")[1][: len(p)], rtol=1e-12)


def test_adjustment_keeps_order_beyond_underflow():
    log_p = -np.linspace(1e6, 2e6, 1000)
    adjusted = adjust_log_p(log_p, 10_000)
    assert (np.diff(adjusted) < 0).all()
    assert (adjusted >= log_p).all()


def test_odds_ratio_at_zeros():
    found = odds_ratios(np.array([3, 0, 0, 5]), np.full(4, 5), np.array([0, 2, 0, 9]), np.full(4, 9))
    np.testing.assert_array_equal(found, [np.inf, 0.0, np.nan, np.nan])


def test_odds_ratio_of_large_counts_does_not_overflow():
    four = (np.array([n]) for n in (4 * 10**9, 5 * 10**9, 4 * 10**9, 9 * 10**9))
    assert odds_ratios(*four)[0] == pytest.approx(5.0)


def test_unknown_and_empty_groups_are_explained():
    known = {"above", "below"}
    assert SampleSet("vsr", None, ("below",)).choose(known) == {"above"}
    assert SampleSet.of({"dataset": "vsr", "groups": ["above"], "without": []}).choose(known) == {"above"}
    with pytest.raises(SampleSetError, match=r"'vsr' has no group \['beside'\]; it has \['above', 'below'\]"):
        SampleSet("vsr", ("beside",)).choose(known)
    with pytest.raises(SampleSetError, match="no group of data set 'vsr' is left"):
        SampleSet("vsr", ("above",), ("above",)).choose(known)


def write_two_layers(folder: Path) -> tuple[list[Path], list[Path]]:
    """Statistics of a data set with groups above, below and count at layers 0 and 1."""
    statistics, totals = [], []
    for layer in (0, 1):
        rows = [
            {"feature": 1, "group": "above", "token_type": "text", "fires": 30, "samples_fired": 9},
            {"feature": 1, "group": "above", "token_type": "image", "fires": 99, "samples_fired": 10},
            {"feature": 1, "group": "below", "token_type": "text", "fires": 20, "samples_fired": 8},
            {"feature": 1, "group": "count", "token_type": "text", "fires": 2, "samples_fired": 1},
            {"feature": 2, "group": "count", "token_type": "text", "fires": 5, "samples_fired": 3},
        ]
        units = [
            {"group": group, "token_type": kind, "n_tokens": 100, "n_samples": 10}
            for group in ("above", "below", "count")
            for kind in ("text", "image")
        ]
        both = ([{**row, "layer": layer} for row in part] for part in (rows, units))
        files = write_statistics(folder / f"layer_{layer}", *both)
        statistics.append(files[0])
        totals.append(files[1])
    return statistics, totals


def run_contrast(tmp_path, target, baseline):
    files = write_two_layers(tmp_path)
    output = tmp_path / "contrast.parquet"
    contrast_concept("space", target, baseline, files, files, 8, CRITERIA, output)
    return read_table(output, CONTRAST)


def test_contrast_table(tmp_path):
    target = {"dataset": "world", "groups": None, "without": ["count"]}
    found = run_contrast(tmp_path, target, {"dataset": "world", "groups": ["count"], "without": []})
    assert len(found) == 2 * 2 * 2  # units, layers, features that fire
    row = found[(found["unit"] == "token") & (found["layer"] == 1) & (found["feature"] == 1)].iloc[0]
    # Text tokens only: image tokens of 'above' are not in the counts.
    assert tuple(row[["fires_target", "n_target", "fires_baseline", "n_baseline"]]) == (50, 200, 2, 100)
    log_p = np.log(fisher_exact([[50, 150], [2, 98]], "greater")[1])
    assert row["log_p"] == pytest.approx(log_p, rel=1e-12)
    # Two equal tests share ranks 1 and 2 among 4 features x 2 layers.
    assert row["log_p_adjusted"] == pytest.approx(log_p + np.log(8 / 2), rel=1e-12)
    assert row["selected"]
    sample = found[(found["unit"] == "sample") & (found["layer"] == 0) & (found["feature"] == 1)].iloc[0]
    assert tuple(sample[["fires_target", "n_target", "fires_baseline", "n_baseline"]]) == (17, 20, 1, 10)
    silent = found[(found["unit"] == "token") & (found["feature"] == 2)]
    assert (silent["log_p"] == 0).all()
    assert not silent["selected"].any()


def test_every_criterion_counts():
    counts = pd.DataFrame(
        {"layer": 0, "feature": range(4), "fires_target": [60, 60, 12, 6], "n_target": 1000}
        | {"fires_baseline": [10, 30, 3, 1], "n_baseline": 1000}
    )
    selected = contrast_unit(counts, "token", 4, Criteria(3.0, 0.01, 0.05))["selected"]
    assert list(selected) == [True, False, False, False]  # odds ratio, difference, p
    assert contrast_unit(counts, "token", 4, Criteria(2.0, 0.01, 0.05))["selected"][1]
    assert contrast_unit(counts, "token", 4, Criteria(3.0, 0.005, 0.05))["selected"][2]
    assert contrast_unit(counts, "token", 4, Criteria(3.0, 0.005, 0.1))["selected"][3]


def test_overlapping_sets_are_refused(tmp_path):
    everything = {"dataset": "world", "groups": None, "without": []}
    with pytest.raises(SampleSetError, match=r"share groups \['above'\]"):
        run_contrast(tmp_path, {"dataset": "world", "groups": ["above"]}, everything)


def test_the_contrast_needs_no_torch():
    code = "import vlmdiff.features.contrast, vlmdiff.features.diff, sys; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2] / "workflow_scripts"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(root)})

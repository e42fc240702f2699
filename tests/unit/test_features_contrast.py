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
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from vlmdiff.features.contrast import (
    Criteria,
    adjust_log_p,
    contrast_concept,
    contrast_unit,
    fisher_log_p,
    odds_ratios,
    significant,
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
    with pytest.raises(SampleSetError, match=r"'vsr' has no group \['near'\]"):
        SampleSet("vsr", None, ("near",)).choose(known)
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


def test_what_lies_on_a_limit_is_selected():
    # Odds of 3 against odds of 1, three in four against one in two; Fisher's p is .018.
    counts = pd.DataFrame({"layer": [0], "feature": 0, "fires_target": 30, "n_target": 40})
    counts = counts.assign(fires_baseline=20, n_baseline=40)
    assert contrast_unit(counts, "token", 1, Criteria(3.0, 0.25, 0.05))["selected"][0]
    assert not contrast_unit(counts, "token", 1, Criteria(3.001, 0.25, 0.05))["selected"][0]
    assert not contrast_unit(counts, "token", 1, Criteria(3.0, 0.251, 0.05))["selected"][0]
    assert not contrast_unit(counts, "token", 4, Criteria(3.0, 0.25, 0.05))["selected"][0]
    assert list(significant(pd.Series([0.0, np.log(0.5)]), Criteria(1.0, 0.0, 1.0))) == [True, True]


def random_side(folder: Path, seed: int, samples: int, rates: dict[int, list[float]]):
    """Samples of unequal length in two groups: files, and by layer each sample's length and firings."""
    rng, files, truth = np.random.default_rng(seed), ([], []), {}
    for layer, of_features in rates.items():
        length = rng.integers(1, 30, samples)
        group = np.where(np.arange(samples) % 3 == 0, "above", "below")
        burst = rng.random((samples, len(of_features))) < np.sqrt(of_features)
        fires = burst * rng.binomial(length[:, None], np.sqrt(of_features))
        rows, totals = [], []
        for name in ("above", "below"):
            own, n = fires[group == name], length[group == name]
            totals += [{"layer": layer, "group": name, "token_type": "text", "n_tokens": n.sum()}]
            totals[-1] |= {"n_samples": len(n), "sum_tokens_squares": (n**2).sum()}
            for feature, x in enumerate(own.T):
                row = {"layer": layer, "feature": feature, "group": name, "token_type": "text"}
                row |= {"fires": x.sum(), "samples_fired": (x > 0).sum()}
                rows.append(row | {"sum_fires_squares": (x**2).sum(), "sum_fires_tokens": (x * n).sum()})
        for kept, path in zip(files, write_statistics(folder / f"layer_{layer}", rows, totals)):
            kept.append(path)
        truth[layer] = (length, fires)
    return files, truth


def clustered_by_hand(target, baseline) -> tuple[float, float]:
    """Log p and design effect of one feature from each sample's firings x among n units."""
    p, variance, binomial = [], [], []
    for x, n in (target, baseline):
        share, m = x.sum() / n.sum(), len(x)
        p.append(share)
        variance.append(m / (m - 1) * ((x - share * n) ** 2).sum() / n.sum() ** 2)
        binomial.append(share * (1 - share) / n.sum())
    effect = sum(variance) / sum(binomial)
    if all((n == 1).all() for _, n in (target, baseline)):
        table = [[x.sum(), len(x) - x.sum()] for x, _ in (target, baseline)]
        return np.log(fisher_exact(table, alternative="greater").pvalue), effect
    x, n = (np.concatenate(parts) for parts in zip(target, baseline))
    common = ((x - x.sum() / n.sum() * n) ** 2).sum() * len(x) / (len(x) - 1) / (n**2).sum()
    common *= sum((side**2).sum() / side.sum() ** 2 for _, side in (target, baseline))
    largest = max(sum(variance), common)
    return student.logsf((p[0] - p[1]) / np.sqrt(largest), int((x > 0).sum()) - 1), effect


def test_the_clustered_test_is_that_of_the_samples(tmp_path):
    """Two data sets with groups of the same names, two layers of other lengths, samples of unequal size."""
    rates = {0: [0.3, 0.2, 0.12, 0.02], 3: [0.1, 0.4, 0.25, 0.15]}
    one, mine = random_side(tmp_path / "one", 0, 60, rates)
    two, theirs = random_side(tmp_path / "two", 1, 90, {0: [0.1, 0.1, 0.1, 0.02], 3: [0.02, 0.3, 0.02, 0.15]})
    sets = ({"dataset": "vsr", "groups": None}, {"dataset": "vqa", "groups": ["above", "below"]})
    criteria = {"min_odds_ratio": 1.5, "min_frequency_difference": 0.1, "fdr": 0.05}
    contrast_concept("space", *sets, one, two, 20, criteria, tmp_path / "c.parquet")
    found = read_table(tmp_path / "c.parquet", CONTRAST)
    for unit, part in found.groupby("unit"):
        log_p = []
        for row in part.itertuples():
            sides = []
            for length, fires in (mine[row.layer], theirs[row.layer]):
                x = fires[:, row.feature]
                sides.append((x, length) if unit == "token" else ((x > 0) * 1, np.ones_like(length)))
            expected, effect = clustered_by_hand(*sides)
            assert row.log_p_clustered == pytest.approx(expected, rel=1e-9)
            assert row.design_effect == pytest.approx(effect, rel=1e-9)
            assert (row.n_target, row.n_baseline) == tuple(n.sum() for _, n in sides)
            log_p.append(expected)
        adjusted = false_discovery_control(np.exp([*log_p, *[0.0] * (20 - len(log_p))]))[: len(log_p)]
        np.testing.assert_allclose(np.exp(part["log_p_clustered_adjusted"]), adjusted, rtol=1e-9)
        large = (part["odds_ratio"] >= 1.5) & (part["freq_difference"] >= 0.1)
        assert (part["selected_clustered"] == (large & (adjusted <= 0.05))).all()
    # Each condition matters: some are large but not sure, some sure but not large.
    sure = found["log_p_clustered_adjusted"] <= np.log(0.05)
    large = (found["odds_ratio"] >= 1.5) & (found["freq_difference"] >= 0.1)
    assert (sure & ~large).any() and (large & ~sure).any() and (large & sure).any()


def test_a_set_without_text_is_refused(tmp_path):
    units = [{"group": "above", "token_type": "image", "n_tokens": 100, "n_samples": 10}]
    rows = [{"feature": 1, "group": "above", "token_type": "image", "fires": 9, "samples_fired": 1}]
    files = tuple([path] for path in write_statistics(tmp_path / "layer_0", rows, units))
    sets = ({"dataset": name, "groups": ["above"]} for name in ("one", "two"))
    with pytest.raises(SampleSetError, match=r"data set 'one', groups \['above'\]: no text tokens"):
        contrast_concept("space", *sets, files, files, 8, CRITERIA, tmp_path / "contrast.parquet")


def test_overlapping_sets_are_refused(tmp_path):
    everything = {"dataset": "world", "groups": None, "without": []}
    with pytest.raises(SampleSetError, match=r"share groups \['above'\]"):
        run_contrast(tmp_path, {"dataset": "world", "groups": ["above"]}, everything)


def test_the_contrast_needs_no_torch():
    code = "import vlmdiff.features.contrast, vlmdiff.features.diff, sys; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2] / "workflow_scripts"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(root)})

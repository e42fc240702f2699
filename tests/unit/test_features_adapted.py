"""Both rules, their thresholds, the sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vlmdiff.features.adapted import (
    calibrated_threshold,
    compare_selections,
    more_often,
    percentile_threshold,
    rotated,
    select_adapted,
    sweep_thresholds,
    threshold_row,
)
from vlmdiff.features.diff import UNKNOWN
from vlmdiff.tables.features import ADAPTED, FEATURE_DIFF, THRESHOLD_SWEEP, THRESHOLDS
from vlmdiff.tables.io import read_table, write_table

SETTINGS = {
    "eps": 0.1,
    "percentile": 25.0,
    "null_quantile": 0.05,
    "rule": "calibrated",
    "sweep_eps": [0.01, 0.1],
    "sweep_percentiles": [10.0, 25.0, 50.0],
}


def by_rotation(diff: pd.DataFrame) -> pd.DataFrame:
    """Go by the cosines of decoder rows."""
    return diff.assign(similarity=diff["cos_decoder"], null_similarity=diff["null_cos_decoder"])


def make_diff(seed=0, n=400) -> pd.DataFrame:
    """Two layers; a quarter of the features rotated beyond the null; energies all around eps, two on it."""
    rng = np.random.default_rng(seed)
    energy = rng.exponential(0.15, n)
    energy[[0, 4]] = SETTINGS["eps"]
    cosines = np.where(np.arange(n) % 4 == 0, rng.uniform(0.2, 0.6, n), rng.uniform(0.95, 1, n))
    return pd.DataFrame(
        {
            "layer": np.arange(n) // (n // 2),
            "feature": np.arange(n) % (n // 2),
            "seed": 1,
            "cos_decoder": cosines,
            "cos_encoder": rng.permutation(cosines),
            "null_cos_decoder": rng.uniform(0.94, 1, n),
            "null_cos_encoder": 1.0,
            "check_cos_decoder": rng.uniform(0.94, 1, n),
            "untuned_cos_decoder": rng.uniform(0.5, 1, n),
            "calibrated": np.arange(n) % 7 != 3,
            "check_calibrated": np.arange(n) % 11 != 5,
            "visual_energy": energy,
            "text_energy": rng.permutation(energy),
            "visual_rate": 0.0,
            **dict.fromkeys(UNKNOWN, np.nan),
        }
    )


def run(tmp_path, diff, **changes):
    outputs = [tmp_path / name for name in ("adapted.parquet", "thresholds.csv", "sweep.csv")]
    write_table(by_rotation(diff), FEATURE_DIFF, tmp_path / "diff.parquet")
    select_adapted(tmp_path / "diff.parquet", outputs, **{**SETTINGS, **changes})
    schemas = (ADAPTED, THRESHOLDS, THRESHOLD_SWEEP)
    return [read_table(path, schema) for path, schema in zip(outputs, schemas)]


def test_rules_are_their_definitions(tmp_path):
    diff = make_diff()
    adapted, thresholds, _ = run(tmp_path, diff)
    visual = diff["visual_energy"] > 0.1
    by_percentile = visual & (diff["cos_decoder"] <= np.percentile(diff["cos_decoder"], 25))
    known = visual & diff["calibrated"]
    tau = np.quantile(diff.loc[known, "null_cos_decoder"], 0.05)
    calibrated = visual & (diff["cos_decoder"] <= tau)
    np.testing.assert_array_equal(adapted["adapted_percentile"], by_percentile)
    np.testing.assert_array_equal(adapted["adapted_calibrated"], calibrated)
    np.testing.assert_array_equal(adapted["adapted"], calibrated)
    row = thresholds[thresholds["layer"] < 0].set_index("rule").loc["calibrated"]
    assert row["tau"] == pytest.approx(tau)
    assert (row["features"], row["visual"], row["adapted"]) == (400, visual.sum(), calibrated.sum())
    assert row["visual_uncalibrated"] == (visual & ~diff["calibrated"]).sum() > 0
    assert row["adapted_uncalibrated"] == (calibrated & ~diff["calibrated"]).sum() > 0
    assert row["null_adapted"] == (known & (diff["null_cos_decoder"] <= tau)).sum()
    assert row["null_false_positive_rate"] == row["null_adapted"] / known.sum()
    assert row["null_false_positive_rate"] == pytest.approx(0.05, abs=1 / known.sum())


def test_features_of_plain_text_are_counted(tmp_path):
    diff = make_diff()
    assert run(tmp_path, diff)[1][["visual_textual", "adapted_textual"]].isna().all(axis=None)
    rng = np.random.default_rng(3)
    diff["text_energy_before"], diff["visual_energy_before"] = rng.random((2, len(diff)))
    textual = diff["text_energy_before"] > diff["visual_energy_before"]
    adapted, thresholds, _ = run(tmp_path, diff)
    row = thresholds[(thresholds["layer"] < 0) & (thresholds["rule"] == "calibrated")].iloc[0]
    visual = diff["visual_energy"] > row["eps"]
    assert row["visual_textual"] == (textual & visual).sum() > 0
    assert row["adapted_textual"] == (textual & adapted["adapted_calibrated"]).sum() > 0


def test_layers_add_up_to_the_whole(tmp_path):
    diff = make_diff()
    _, thresholds, _ = run(tmp_path, diff)
    counts = ["features", "visual", "visual_uncalibrated", "adapted", "adapted_uncalibrated", "null_adapted"]
    counts += [
        "check_visual",
        "check_vlm_adapted",
        "check_adapted",
        "untuned_adapted",
        "adapted_also_untuned",
    ]
    for rule, part in thresholds.groupby("rule"):
        whole, layers = part[part["layer"] == -1], part[part["layer"] >= 0]
        assert list(layers["layer"]) == [0, 1] and len(whole) == 1
        assert (layers[counts].sum() == whole[counts].iloc[0]).all(), rule
        assert part["tau"].nunique() == 1
    row = thresholds[(thresholds["layer"] == 1) & (thresholds["rule"] == "percentile")].iloc[0]
    here = (diff["layer"] == 1) & diff["calibrated"] & (diff["visual_energy"] > 0.1)
    wrong = here & (diff["null_cos_decoder"] <= row["tau"])
    assert row["null_false_positive_rate"] == wrong.sum() / here.sum()


def test_the_config_chooses_the_rule(tmp_path):
    adapted, _, _ = run(tmp_path, make_diff(), rule="percentile", percentile=10.0)
    np.testing.assert_array_equal(adapted["adapted"], adapted["adapted_percentile"])
    assert adapted["adapted_percentile"].sum() != adapted["adapted_calibrated"].sum()


def test_without_adaptation_the_calibrated_rule_stays_empty_and_the_percentile_rule_does_not(tmp_path):
    diff = make_diff().assign(visual_energy=1.0)
    rng = np.random.default_rng(5)
    diff["cos_decoder"] = rng.uniform(0.94, 1, len(diff))
    adapted, _, _ = run(tmp_path, diff)
    assert adapted["adapted_percentile"].sum() == len(diff) // 4
    assert adapted["adapted_calibrated"].sum() < 0.1 * len(diff)


def test_dead_features_do_not_move_the_calibrated_threshold():
    diff = pd.DataFrame({"null_similarity": [0.9, 0.8, 0.7, 1.0, 1.0, 1.0]})
    diff = diff.assign(visual_energy=[1, 1, 1, 0, 0, 0.0], calibrated=True)
    assert calibrated_threshold(diff, 0.1, 0.5) == pytest.approx(0.8)


def test_features_that_the_null_never_fired_do_not_move_it_either():
    diff = pd.DataFrame({"null_similarity": [0.9, 0.8, 0.7, 1.0, 1.0, 1.0], "visual_energy": 1.0})
    diff["calibrated"] = diff["null_similarity"] < 1
    assert calibrated_threshold(diff, 0.1, 0.5) == pytest.approx(0.8)


def test_unknown_cosines_are_neither_counted_nor_selected():
    cosines = np.array([np.nan, 0.1, 0.9])
    assert percentile_threshold(cosines, 50) == pytest.approx(0.5)
    assert list(rotated(cosines, np.ones(3), 0.5, 0.1)) == [False, True, False]


def test_a_cosine_on_the_threshold_is_rotated_and_an_energy_on_it_is_none():
    assert list(rotated(np.array([0.5, 0.5]), np.array([0.11, 0.1]), 0.5, 0.1)) == [True, False]


def test_nothing_visual_selects_nothing(tmp_path, caplog):
    adapted, thresholds, found = run(tmp_path, make_diff().assign(visual_energy=0.0))
    assert not adapted["adapted"].any()
    assert "lower diff.eps" in caplog.text
    assert thresholds["null_false_positive_rate"].isna().all()
    assert (found["adapted"] == 0).all()


def test_sweep_is_one_at_the_chosen_point(tmp_path):
    diff = make_diff()
    _, _, found = run(tmp_path, diff)
    assert len(found) == 6
    at = found.set_index(["eps", "percentile"]).loc[(0.1, 25.0)]
    assert tuple(at[["jaccard", "retention", "precision", "layer_correlation"]]) == pytest.approx(
        (1, 1, 1, 1)
    )
    for (eps, percentile), row in found.set_index(["eps", "percentile"]).iterrows():
        tau = np.percentile(diff["cos_decoder"], percentile)
        selected = (diff["visual_energy"] > eps) & (diff["cos_decoder"] <= tau)
        assert row["adapted"] == selected.sum()
        assert row["uncalibrated"] == (selected & ~diff["calibrated"]).sum() > 0
    wide = sweep_thresholds(by_rotation(diff), 0.1, 25.0, [0.1], [50.0]).iloc[0]
    assert wide["retention"] == 1
    assert wide["precision"] == wide["jaccard"] < 1
    narrow = sweep_thresholds(by_rotation(diff), 0.1, 25.0, [0.1], [10.0]).iloc[0]
    assert narrow["precision"] == 1
    assert narrow["retention"] == narrow["jaccard"] < 1


def test_comparison_by_hand():
    layer = np.array([0, 0, 0, 4, 4, 7])
    selected, chosen = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 0, 1, 0, 1, 1], bool)
    found = compare_selections(selected, chosen, layer)
    assert (found["adapted"], found["jaccard"]) == (3, 2 / 5)
    assert (found["retention"], found["precision"]) == (2 / 4, 2 / 3)
    assert found["layer_correlation"] == pytest.approx(np.corrcoef([2, 1, 0], [2, 1, 1])[0, 1])
    empty = compare_selections(np.zeros(6, bool), chosen, layer)
    assert np.isnan(empty["precision"])
    assert np.isnan(empty["layer_correlation"])


def test_threshold_row_applies_the_rule_to_the_null():
    diff = make_diff().assign(visual_energy=1.0, null_cos_decoder=np.linspace(0, 1, 400), calibrated=True)
    row = threshold_row(by_rotation(diff), "percentile", 0.5, 0.1)
    assert row["null_adapted"] == 200
    assert row["null_false_positive_rate"] == 0.5


def test_the_second_null_counts_false_positives(tmp_path):
    diff = make_diff()
    _, thresholds, _ = run(tmp_path, diff)
    for row in thresholds[thresholds["layer"] < 0].itertuples():
        visual = (diff["visual_energy"] > row.eps) & diff["calibrated"] & diff["check_calibrated"]
        wrong = int((visual & (diff["check_cos_decoder"] <= row.tau)).sum())
        found = visual & (diff["cos_decoder"] <= row.tau)
        assert (row.check_visual, row.check_vlm_adapted) == (visual.sum(), found.sum())
        assert row.check_adapted == wrong
        n, z = visual.sum(), 1.959964
        share = wrong / n
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))  # Wilson, 1927
        assert (row.check_low, row.check_high) == pytest.approx((middle - half, middle + half), abs=1e-6)
        assert row.check_false_positive_rate == wrong / visual.sum()


def test_without_a_second_null_nothing_is_claimed(tmp_path):
    _, thresholds, _ = run(tmp_path, make_diff().assign(check_cos_decoder=np.nan))
    checks = [name for name in thresholds if name.startswith("check_")]
    assert len(checks) == 7
    assert thresholds[checks].isna().all(axis=None)


def test_the_test_is_mcnemars():
    first = np.array([1] * 9 + [0] * 2 + [1] * 5 + [0] * 4, bool)
    second = np.array([0] * 9 + [1] * 2 + [1] * 5 + [0] * 4, bool)
    # Of 11 that differ at least 9: (55 + 11 + 1) / 2048.
    assert more_often(first, second) == pytest.approx(67 / 2048)
    # At least 2 of 11: all but 0 and 1.
    assert more_often(second, first) == pytest.approx(1 - 12 / 2048)
    assert more_often(first, first) == 1.0


def test_the_second_null_is_tested_feature_by_feature(tmp_path):
    """Among 40 features that both nulls moved: 12 turn in the VLM alone, 3 in the null alone, 5 in both."""
    diff = make_diff(n=60).assign(visual_energy=1.0, cos_decoder=0.9, check_cos_decoder=0.9, layer=0)
    diff["feature"], diff["calibrated"], diff["check_calibrated"] = np.arange(60), True, True
    diff.loc[:16, "cos_decoder"] = 0.1
    diff.loc[12:19, "check_cos_decoder"] = 0.1
    # What either null left alone does not count, whatever it does.
    diff.loc[40:49, ["calibrated", "cos_decoder"]] = False, 0.1
    diff.loc[50:59, ["check_calibrated", "cos_decoder"]] = False, 0.1
    row = threshold_row(by_rotation(diff), "percentile", 0.5, 0.1)
    assert (row["check_visual"], row["check_vlm_adapted"], row["check_adapted"]) == (40, 17, 8)
    # Of 15 that differ at least 12: (455 + 105 + 15 + 1) / 32768.
    assert row["check_p"] == pytest.approx(576 / 32768)
    assert (row["adapted"], row["adapted_uncalibrated"]) == (37, 10)


def test_where_nothing_was_tuned_all_that_is_visual_counts(tmp_path):
    diff = make_diff()
    _, thresholds, _ = run(tmp_path, diff)
    for row in thresholds[thresholds["layer"] < 0].itertuples():
        visual = diff["visual_energy"] > 0.1
        wrong = visual & (diff["untuned_cos_decoder"] <= row.tau)
        both = wrong & (diff["cos_decoder"] <= row.tau)
        assert (row.untuned_adapted, row.adapted_also_untuned) == (wrong.sum(), both.sum())
        assert row.untuned_rate == wrong.sum() / visual.sum() > 0
        assert both.sum() < wrong.sum()
    _, without, _ = run(tmp_path, diff.assign(untuned_cos_decoder=np.nan))
    names = ["untuned_adapted", "untuned_rate", "adapted_also_untuned"]
    assert without[names].isna().all(axis=None)


def test_the_energy_rule_asks_for_no_rotation(tmp_path):
    diff = make_diff()
    adapted, thresholds, _ = run(tmp_path, diff, rule="energy")
    visual = diff["visual_energy"] > thresholds["eps"].iloc[0]
    assert (adapted["adapted"] == visual).all()
    row = thresholds[(thresholds["rule"] == "energy") & (thresholds["layer"] == -1)].iloc[0]
    assert row["null_adapted"] == (visual & diff["calibrated"]).sum() < visual.sum()
    assert row["null_false_positive_rate"] == 1.0
    assert list(thresholds["rule"].unique()) == ["percentile", "calibrated", "energy"]

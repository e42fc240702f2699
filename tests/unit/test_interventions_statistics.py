"""Bootstrap, effects, matched controls, plans and rankings: no model needed."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.bootstrap import interval, resample_counts
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.matching import MatchedFeatures, MatchingError
from vlmdiff.interventions.report import random_arms, reported_sizes, selected_arms
from vlmdiff.runtime.seeds import derive_seed


@given(st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_resamples_have_the_size_of_the_sample(n, seed):
    counts = resample_counts(n, 7, seed)
    assert counts.shape == (7, n)
    assert (counts.sum(axis=1) == n).all()
    assert (counts == resample_counts(n, 7, seed)).all()


def test_interval_equals_scipy():
    values = np.random.default_rng(0).normal(size=(1, 80))
    low, high = interval(values, resample_counts(80, 20_000, 1))
    expected = stats.bootstrap(
        (values[0],), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx(tuple(expected), abs=0.01)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, n = -0.1, 150
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.7, 0.1], size=(600, n))
    low, high = interval(values, resample_counts(n, 800, 3))
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.91 < covered < 0.98


def test_no_change_has_an_interval_of_zero():
    low, high = interval(np.zeros((1, 30)), resample_counts(30, 100, 0))
    assert (low[0], high[0]) == (0.0, 0.0)


def test_effects_by_group_equal_a_naive_computation():
    rng = np.random.default_rng(0)
    groups = np.array(["below", "above", "above", "below", "above"], dtype=object)
    clean, edited = Answers(rng.normal(size=5)), Answers(rng.normal(size=5))
    rows = {row["group"]: row for row in EffectTable("d", groups, clean, 200, 0).rows(edited)}
    assert list(rows) == ["all", "above", "below"]
    for group, row in rows.items():
        mask = np.ones(5, bool) if group == "all" else groups == group
        before, after = (one.margin[mask] > 0 for one in (clean, edited))
        assert row["n"] == mask.sum()
        assert row["accuracy_clean"] == pytest.approx(before.mean())
        assert row["accuracy"] == pytest.approx(after.mean())
        assert row["delta_accuracy"] == pytest.approx(after.mean() - before.mean())
        assert row["delta_margin"] == pytest.approx((edited.margin - clean.margin)[mask].mean())
        # Two and a half per cent of the resampled means lie below, as many above.
        counts = resample_counts(int(mask.sum()), 200, derive_seed(0, "bootstrap", "d", group))
        for name, change in (
            ("delta", after * 1.0 - before),
            ("margin", (edited.margin - clean.margin)[mask]),
        ):
            means = np.sort([np.repeat(change, count.astype(int)).mean() for count in counts])
            expected = np.quantile(means, [0.025, 0.975])
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(expected))


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    clean = Answers(rng.normal(scale=10, size=200))
    edited = Answers(clean.margin - 1 + rng.normal(scale=0.1, size=200))
    row = next(EffectTable("d", np.full(200, "g", dtype=object), clean, 500, 0).rows(edited))
    assert -1.05 < row["margin_low"] < row["margin_high"] < -0.95


def rates(features_per_layer=200, layers=(0, 1)):
    rng = np.random.default_rng(0)
    rows = [
        (layer, i, rng.choice([0.0, rng.uniform()])) for layer in layers for i in range(features_per_layer)
    ]
    return pd.DataFrame(rows, columns=["layer", "feature", "visual_rate"])


def test_controls_match_layer_and_rate_and_are_neither_final_nor_selected():
    table = rates()
    table.loc[(table.layer == 0) & (table.feature == 3), "visual_rate"] = 0.5
    final, chosen = [(0, 3), (1, 4)], [(0, i) for i in range(40, 60)]
    matched = MatchedFeatures(table, final, chosen, neighbours=5)
    live = {(r.layer, r.feature): r.visual_rate for r in table.itertuples() if r.visual_rate > 0}
    pool = [key for key in live if key[0] == 0 and key not in final and key not in chosen]
    nearest = set(sorted(pool, key=lambda key: abs(live[key] - 0.5))[:5])
    drawn = {matched.draw([(0, 3)], np.random.default_rng(i))[0] for i in range(80)}
    assert drawn == nearest


def test_sets_keep_the_composition_by_layer_and_have_no_doubles():
    matched = MatchedFeatures(rates(), [(0, 1), (0, 2), (1, 1)], [], neighbours=2)
    for seed in range(20):
        drawn = matched.draw([(0, 1), (0, 2), (1, 1)], np.random.default_rng(seed))
        assert [layer for layer, _ in drawn] == [0, 0, 1]
        assert len(set(drawn)) == 3


def test_too_few_controls_first_relax_the_contrast_then_refuse(caplog):
    table = pd.DataFrame({"layer": 0, "feature": [0, 1, 2, 3], "visual_rate": [0.1, 0.2, 0.3, 0.0]})
    matched = MatchedFeatures(table, [(0, 0)], [(0, 1)])
    with caplog.at_level(logging.WARNING):
        assert set(matched.draw([(0, 0), (0, 0)], np.random.default_rng(0))) == {(0, 1), (0, 2)}
    assert "not selected" in caplog.text
    with pytest.raises(MatchingError, match="layer 0.*needs 3.*2 live"):
        matched.draw([(0, 0)] * 3, np.random.default_rng(0))


class Echo:
    """Gives as a matched set the set itself."""

    def draw(self, features, generator):
        return list(features)


def test_random_singles_match_the_selected_in_turn():
    selected = list(selected_arms([(0, 1), (0, 2), (1, 1)], 2, [3]))
    drawn = list(random_arms(selected, Echo(), 3, 0))
    assert [arm.features for arm in drawn if arm.size == 1] == [((0, 1),), ((0, 2),), ((0, 1),)]
    assert [arm.features for arm in drawn if arm.size == 3] == [((0, 1), (0, 2), (1, 1))] * 3
    # A set of all that are ranked is a set too.
    assert reported_sizes([2, 3], 3) == [2, 3]


def test_plan_holds_singles_sets_and_matched_draws(caplog):
    ranked = [(0, 1), (0, 2), (1, 1), (1, 5)]
    with caplog.at_level(logging.WARNING):
        sizes = reported_sizes([3, 5, 1], len(ranked))
    assert sizes == [3]
    assert "[5]" in caplog.text
    selected = list(selected_arms(ranked, 2, sizes))
    assert [(arm.size, arm.draw, arm.features) for arm in selected] == [
        (1, 0, ((0, 1),)),
        (1, 1, ((0, 2),)),
        (3, 0, ((0, 1), (0, 2), (1, 1))),
    ]
    drawn = list(random_arms(selected, MatchedFeatures(rates(), ranked, []), 20, 5))
    assert [(arm.size, arm.draw) for arm in drawn] == [(size, i) for size in (1, 3) for i in range(20)]
    assert len({arm.features for arm in drawn if arm.size == 3}) > 15
    assert drawn == list(random_arms(selected, MatchedFeatures(rates(), ranked, []), 20, 5))

"""Aggregation and agreement: tables only."""

import numpy as np
import pandas as pd
import pytest
from causal_files import filled
from scipy import stats

from vlmdiff.heads.aggregate import aggregate_heads, head_scores, mean_share
from vlmdiff.heads.agreement import (
    agreement,
    correlations,
    relative,
    resampled_weights,
    tail,
    weighted_ranks,
)
from vlmdiff.heads.head_arms import head_arms, random_sets, scored_heads
from vlmdiff.heads.tracing import top_and_random
from vlmdiff.tables.causal import HEAD_ATTRIBUTION, HEAD_SCORES
from vlmdiff.tables.io import read_table, write_table


def attribution(scale=1.0, seed=0):
    """Two features, of blocks 0 and 1, of a model with two heads a block."""
    rng = np.random.default_rng(seed)
    rows = []
    for layer, feature in ((0, 7), (1, 3)):
        for block in range(layer + 1):
            for head in range(2):
                a, b = rng.uniform(size=2) * (scale if layer else 1.0)
                place = {"feature_layer": layer, "feature": feature, "name": f"L{layer}F{feature}"}
                values = {"method_a": a, "method_b": b, "signed": a - b}
                rows.append({"concept": "c", **place, "layer": block, "head": head, **values})
    table = pd.DataFrame(rows)
    return table.assign(score=mean_share(table))


def test_scores_equal_a_naive_mean_of_shares():
    table = attribution()
    scores = head_scores(table).set_index(["layer", "head"])
    first, second = table[table["feature_layer"] == 0], table[table["feature_layer"] == 1]

    def share(frame, layer, head):
        own = frame[(frame["layer"] == layer) & (frame["head"] == head)]["method_a"].item()
        return own / frame["method_a"].sum()

    expected = (share(first, 0, 1) + share(second, 0, 1)) / 2
    assert scores.loc[(0, 1), "score_a"] == pytest.approx(expected)
    # Heads of block 1 cannot influence the feature of block 0: only one feature counts.
    assert scores.loc[(1, 0), "score_a"] == pytest.approx(share(second, 1, 0))
    assert scores.loc[(1, 0), "features"] == 1
    assert scores.loc[(0, 0), "features"] == 2


# Shares of A are 3/4, 1/4 and 1/8, 2/8, 4/8, 1/8; of B 1/4, 3/4 and 1/8, 4/8, 2/8, 1/8. Scales differ.
BY_HAND = [
    (0, 7, 0, 0, 3.0, 0.1),
    (0, 7, 0, 1, 1.0, 0.3),
    (2, 7, 0, 0, 10.0, 1.0),
    (2, 7, 0, 1, 20.0, 4.0),
    (2, 7, 1, 0, 40.0, 2.0),
    (2, 7, 1, 1, 10.0, 1.0),
]


def test_the_score_is_the_mean_of_both_methods_by_hand():
    keys = ["feature_layer", "feature", "layer", "head", "method_a", "method_b"]
    found = head_scores(pd.DataFrame(BY_HAND, columns=keys))
    # By A alone L1H0 would be first.
    assert list(found["name"]) == ["L0H1", "L1H0", "L0H0", "L1H1"]
    assert list(found["rank"]) == [0, 1, 2, 3]
    np.testing.assert_allclose(found["score_a"], [2 / 8, 4 / 8, 7 / 16, 1 / 8])
    np.testing.assert_allclose(found["score_b"], [5 / 8, 2 / 8, 3 / 16, 1 / 8])
    np.testing.assert_allclose(found["score"], [7 / 16, 3 / 8, 5 / 16, 1 / 8])
    assert list(found["features"]) == [2, 1, 2, 1]
    own = mean_share(pd.DataFrame(BY_HAND, columns=keys))
    np.testing.assert_allclose(own, [1 / 2, 1 / 2, 1 / 8, 3 / 8, 3 / 8, 1 / 8])


def test_equal_scores_rank_by_block_and_head():
    found = head_scores(attribution().assign(method_a=0.0, method_b=0.0))
    assert list(found["name"]) == ["L0H0", "L0H1", "L1H0", "L1H1"]


def test_a_feature_of_larger_scale_counts_no_more():
    pd.testing.assert_frame_equal(head_scores(attribution()), head_scores(attribution(scale=1000.0)))


def test_a_feature_without_any_attribution_scores_zero():
    table = attribution().assign(method_a=0.0)
    assert (head_scores(table)["score_a"] == 0).all()


def test_job_writes_ranked_heads_or_an_empty_table(tmp_path):
    for name, table in (("full", attribution()), ("empty", attribution().head(0))):
        write_table(table, HEAD_ATTRIBUTION, tmp_path / f"{name}.csv")
        aggregate_heads(str(tmp_path / f"{name}.csv"), str(tmp_path / f"{name}_scores.csv"), concept="c")
        scores = read_table(tmp_path / f"{name}_scores.csv", HEAD_SCORES)
        assert len(scores) == (0 if name == "empty" else 4)
        assert (np.diff(scores["score"]) <= 0).all()


def plain(first, second, ranks):
    """The correlation when each value counts once."""
    return correlations(first, second, np.ones((1, len(first))), ranks=ranks)[0]


def test_correlation_equals_scipy_and_is_nan_where_undefined():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, size=30).astype(float)
    second = first + rng.normal(size=30)
    assert plain(first, second, True) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert plain(first, second, False) == pytest.approx(stats.pearsonr(first, second).statistic)
    # Attributions may be as small as this.
    assert plain(first * 1e-30, second, False) == pytest.approx(stats.pearsonr(first, second).statistic)
    for ranks in (True, False):
        assert np.isnan(plain(first, np.full(30, 0.3), ranks)) and np.isnan(plain(np.ones(30), second, ranks))
        assert np.isnan(plain(first[:2], second[:2], ranks))


def test_a_weight_of_three_is_three_heads():
    """Whole weights say what values that are repeated so often say."""
    rng = np.random.default_rng(1)
    first = rng.integers(0, 6, size=12).astype(float)
    second = np.round(first + rng.normal(size=12), 1)
    weights = rng.integers(0, 4, size=(3, 12))
    assert (weights == 0).any()
    for ranks, by_scipy in ((True, stats.spearmanr), (False, stats.pearsonr)):
        found = correlations(first, second, weights.astype(float), ranks=ranks)
        repeated = [by_scipy(np.repeat(first, row), np.repeat(second, row)).statistic for row in weights]
        np.testing.assert_allclose(found, repeated)
    # Below 4 lies the weight 2 of 3, and half of 4's own 5 + 1.
    np.testing.assert_allclose(
        weighted_ranks(np.array([4.0, 3.0, 4.0]), np.array([[5.0, 2.0, 1.0]])), [[5, 1, 5]]
    )


def test_weights_undo_the_choice_of_the_extremes():
    """Top and random heads: over many models the weighted correlation is that over all heads.

    Of 400 heads 40 are patched for the highest attribution and 40 by chance: the plain one is inflated. (The
    weighted one lies a little low, as Spearman's correlation of small samples does: its bias for 40 pairs of
    a normal distribution with this correlation is -0.013.)
    """
    rng, found = np.random.default_rng(2), []
    for seed in range(200):
        estimate = rng.lognormal(sigma=1.2, size=400)
        exact = estimate * rng.lognormal(sigma=1.5, size=400)
        place = {
            "layer": np.arange(400) // 20,
            "head": np.arange(400) % 20,
            "feature_layer": 19,
            "feature": 0,
        }
        weights = top_and_random(
            pd.DataFrame({**place, "method_a": estimate, "method_b": estimate}), 40, seed
        )
        at = [20 * layer + head for layer, head in weights]
        assert len(at) == 80 and set(np.argsort(estimate)[-40:]) <= set(at)
        some = estimate[at], exact[at]
        full = stats.spearmanr(estimate, exact).statistic
        unweighted = stats.spearmanr(*some).statistic
        weighted = correlations(*some, np.array([list(weights.values())]), ranks=True)[0]
        found.append((full, unweighted, weighted))
    full, unweighted, weighted = np.mean(found, axis=0)
    assert 0.58 < full < 0.63
    assert unweighted - full > 0.04
    assert -0.025 < weighted - full < 0.01


def exactly(table, **columns):
    """Rows of patching.csv for the heads of an attribution."""
    keys = ["concept", "feature_layer", "feature", "name", "layer", "head"]
    return table[keys].assign(metric_clean=0.0, metric_corrupt=0.0, **{"weight": 1.0, **columns})


def rows_of(table, exact):
    return pd.DataFrame(agreement(table, exact, resamples=200, seed=0))


def test_agreement_by_feature_and_pooled():
    table = attribution(scale=1000.0)
    exact = exactly(table, exact=-table["signed"], exact_abs=table["method_a"] ** 3)
    rows = rows_of(table, exact)
    assert list(rows["name"]) == ["L0F7"] * 4 + ["L1F3"] * 4 + ["pooled"] * 4
    deep = rows[rows["name"] == "L1F3"].set_index("method")
    assert deep.loc["method_a", "spearman"] == pytest.approx(1)
    assert deep.loc["method_a", "pearson"] < 1
    assert deep.loc["signed", "spearman"] == pytest.approx(-1)
    pooled = rows[rows["name"] == "pooled"].set_index("method")
    assert (pooled["heads"] == 6).all() and (pooled["features"] == 2).all()
    # Each feature is put on one scale first: negation stays exact across features.
    assert pooled.loc["signed", "pearson"] == pytest.approx(-1)
    assert agreement(table.head(0), exact.head(0), 10, 0) == []
    # A head that was not patched takes no part.
    assert list(rows_of(table, exact.iloc[:-1])["heads"]) == [2] * 4 + [3] * 4 + [5] * 4


def test_each_method_is_held_against_its_own_reference():
    table = attribution(seed=0)
    exact = exactly(table, exact=table["signed"] * 2, exact_abs=table["method_b"] ** 2)
    rows = rows_of(table, exact)
    deep = rows[rows["name"] == "L1F3"].set_index("method")
    assert deep["reference"].to_dict() == {
        "score": "exact_abs", "method_a": "exact_abs", "method_b": "exact_abs", "signed": "exact"
    }  # fmt: skip
    assert deep.loc["signed", "pearson"] == pytest.approx(1)
    assert deep.loc["method_b", "spearman"] == pytest.approx(1)
    assert deep.loc["method_a", "spearman"] < 1
    # Pooled: each column over its mean absolute value within each feature.
    scaled = {
        name: np.concatenate([part / np.abs(part).mean() for part in np.split(values, [2])])
        for name, values in (
            ("method_b", table["method_b"].to_numpy()),
            ("score", table["score"].to_numpy()),
            ("exact_abs", exact["exact_abs"].to_numpy()),
        )
    }
    pooled = rows[rows["name"] == "pooled"].set_index("method")
    for method in ("method_b", "score"):
        expected = np.corrcoef(scaled[method], scaled["exact_abs"])[0, 1]
        assert pooled.loc[method, "pearson"] == pytest.approx(expected)
        expected = stats.spearmanr(scaled[method], scaled["exact_abs"]).statistic
        assert pooled.loc[method, "spearman"] == pytest.approx(expected)
    assert pooled.loc["signed", "pearson"] == pytest.approx(1)


def features_with_noise(layers, noise, seed=0):
    """Features of several layers, four heads a block, and the exact effects, A with noise."""
    rng, rows = np.random.default_rng(seed), []
    for feature, layer in enumerate(layers):
        for at in range(4 * (layer + 1)):
            size = rng.lognormal()
            place = {
                "concept": "c",
                "feature_layer": layer,
                "feature": feature,
                "name": f"L{layer}F{feature}",
            }
            row = {"layer": at // 4, "head": at % 4, "method_a": size, "method_b": 3 * size, "signed": size}
            rows.append({**place, **row, "exact_abs": size ** (1 - noise) * rng.lognormal() ** noise})
    table = pd.DataFrame(rows)
    exact = table.pop("exact_abs")
    return table.assign(score=mean_share(table)), exactly(table, exact=exact, exact_abs=exact)


def test_the_number_of_heads_is_no_agreement():
    """Late features have many heads, each with a small share: unrelated effects must stay unrelated."""
    found, shares = [], []
    for seed in range(60):
        table, exact = features_with_noise([0, 0, 4, 4], noise=1.0, seed=seed)
        rows = rows_of(table, exact)
        found.append(rows[(rows["name"] == "pooled") & (rows["method"] == "score")]["spearman"].item())
        share = exact["exact_abs"] / exact.groupby("feature")["exact_abs"].transform("sum")
        shares.append(stats.spearmanr(table["score"], share).statistic)
    assert abs(np.mean(found)) < 0.06 and np.mean(shares) > 0.25


def test_the_interval_resamples_features_with_all_their_heads():
    table, exact = features_with_noise([1, 1, 2, 2, 2, 3], noise=0.4)
    rows = pd.DataFrame(agreement(table, exact, resamples=4000, seed=0))
    row = rows[(rows["name"] == "pooled") & (rows["method"] == "score")].iloc[0]
    both = table.assign(exact_abs=exact["exact_abs"])
    parts = [
        (part["score"] / part["score"].mean(), part["exact_abs"] / part["exact_abs"].mean())
        for _, part in both.groupby("feature")
    ]
    rng, by_hand = np.random.default_rng(9), []
    for _ in range(4000):
        drawn = [parts[i] for i in rng.integers(6, size=6)]
        by_hand.append(stats.spearmanr(*(np.concatenate(side) for side in zip(*drawn))).statistic)
    # Six units: t of 5 degrees is 2.571, times sqrt(6 / 5) 2.816, beyond which a normal has 0.243 %.
    low, high = np.quantile(by_hand, [0.00243, 1 - 0.00243])
    assert (row["spearman_low"], row["spearman_high"]) == pytest.approx((low, high), abs=0.04)
    narrow = np.quantile(by_hand, [0.025, 0.975])
    assert row["spearman_low"] < narrow[0] - 0.03 and row["spearman_high"] > narrow[1] + 0.01
    assert 0.02 < low < row["spearman"] < high < 1
    assert rows.loc[rows["name"] != "pooled", "spearman_low"].isna().all()
    assert row["features"] == 6 and row["heads"] == len(table)


def test_few_features_have_a_wider_interval():
    assert tail(6) == pytest.approx(0.00243, rel=0.01)
    assert tail(10**6) == pytest.approx(0.025, rel=1e-3)


def test_heads_that_were_drawn_by_chance_are_drawn_again():
    table = features_with_noise([1, 1, 1, 3], noise=0.4)[0].assign(weight=1.0)
    table.loc[table["head"] == 2, "weight"] = 6.0
    table.loc[(table["head"] == 2) & (table["layer"] == 0), "weight"] = 1.0
    drawn = resampled_weights(table, 100, seed=0)
    chance, seen = (table["weight"] > 1).to_numpy(), set()
    for row in drawn:
        features = [set(row[(table["feature"] == i) & ~chance]) for i in range(4)]
        counts = [one.pop() for one in features if len(one) == 1]
        assert len(counts) == 4 and sum(counts) == 4
        # The three heads that were drawn, alike for all features: L1H2 of all, L2H2 and L3H2 of the last.
        heads = {}
        for i, pair in table[chance].iterrows():
            if counts[pair["feature"]]:
                heads.setdefault((pair["layer"], pair["head"]), set()).add(
                    row[i] / counts[pair["feature"]] / 6
                )
        assert all(len(times) == 1 for times in heads.values())
        if len(heads) == 3:
            times = sorted(times.pop() for times in heads.values())
            assert sum(times) == 3
            seen.add(tuple(times))
    # All once, one twice and one not, one three times.
    assert seen == {(1, 1, 1), (0, 1, 2), (0, 0, 3)}
    np.testing.assert_allclose(drawn.mean(axis=0), table["weight"], rtol=0.5)


def test_a_patched_head_counts_in_the_scale_of_its_feature_for_those_it_stands_for():
    """Exact effects 8, and by chance 1 and 3, each for 5: the mean over 11 heads is 28 / 11."""
    table = pd.DataFrame({"feature_layer": 0, "feature": 0, "x": [8.0, 1.0, -3.0]})
    found = relative(table, "x", pd.Series([1.0, 5.0, 5.0]))
    np.testing.assert_allclose(found, np.array([8, 1, -3]) * 11 / 28)
    assert (relative(table.assign(x=0.0), "x", pd.Series(1.0, index=table.index)) == 0).all()


def blocks_of(heads):
    return sorted(layer for layer, _ in heads)


def test_random_heads_come_from_the_blocks_of_the_top_heads(caplog):
    # Best first: three of block 2, then one of each other block, and so on.
    heads = [(2, 1), (2, 3), (0, 2), (1, 1), (3, 0), (1, 0), (3, 3)]
    heads += [(layer, head) for layer in range(4) for head in range(4) if (layer, head) not in heads]
    arms = list(head_arms(heads, [1, 2, 4, 7], 20, 0))
    tops = {arm.size: arm.heads for arm in arms if arm.arm == "top"}
    assert tops == {size: tuple(heads[:size]) for size in (1, 2, 4, 7)}
    # By hand, less the top set: 4; 6 pairs of block 2. Of four heads in three blocks there are 96 sets.
    for size, count in ((1, 3), (2, 5), (4, 20), (7, 20)):
        drawn = [arm.heads for arm in arms if arm.arm == "random" and arm.size == size]
        assert len({frozenset(chosen) for chosen in drawn}) == len(drawn) == count
        assert set(tops[size]) not in [set(chosen) for chosen in drawn]
        assert all(blocks_of(chosen) == blocks_of(tops[size]) for chosen in drawn)
    assert "top 1 heads: 3 random sets of the same blocks, so no p below 0.25" in caplog.text
    assert "top 2 heads: 5 random sets of the same blocks, so no p below 0.17" in caplog.text
    assert caplog.text.count("no p below") == 2
    assert arms == list(head_arms(heads, [1, 2, 4, 7], 20, 0))
    # Sets that share a head with the top set are among them.
    assert {arm.heads for arm in arms if arm.arm == "random" and arm.size == 2} == {
        ((2, 0), (2, 1)), ((2, 0), (2, 2)), ((2, 0), (2, 3)), ((2, 1), (2, 2)), ((2, 2), (2, 3))
    }  # fmt: skip


def test_many_random_sets_are_drawn_and_few_are_all_taken(caplog):
    heads = [(layer, head) for head in range(4) for layer in range(3)]
    arms = list(head_arms(heads, [3], 20, 0))
    drawn = [arm.heads for arm in arms if arm.arm == "random"]
    assert len(set(drawn)) == 20 and all(blocks_of(chosen) == [0, 1, 2] for chosen in drawn)
    # All 12 heads of the blocks appear, and no other place than by chance.
    assert len({head for chosen in drawn for head in chosen}) == 12
    assert "no p below" not in caplog.text
    assert drawn != random_sets(heads, heads[:3], 20, 1)
    top = [(0, 1), (1, 3), (2, 0)]
    assert len(set(random_sets(heads, top, 62, 0))) == 62
    for draws in (63, 64):
        every = random_sets(heads[::-1], top, draws, 0)
        assert every == [
            ((0, i), (1, j), (2, k)) for i in range(4) for j in range(4) for k in range(4)
            if (i, j, k) != (1, 3, 0)
        ]  # fmt: skip
    # However many are drawn, the top set is none of them.
    assert not any(tuple(top) in random_sets(heads, top, 60, seed) for seed in range(20))
    # All heads of a block leave none to draw; sets larger than the table are skipped.
    assert random_sets(heads, [(0, i) for i in range(4)], 20, 0) == []
    assert [(arm.arm, arm.size) for arm in head_arms(heads, [12, 13], 20, 0)] == [("top", 12)]
    assert "sets of [13] heads are skipped" in caplog.text


def test_heads_are_read_by_rank(tmp_path):
    scores = filled(HEAD_SCORES, [
        {"layer": 2, "head": 1, "rank": 1, "score": 0.2, "name": "L2H1"},
        {"layer": 0, "head": 3, "rank": 0, "score": 0.7, "name": "L0H3"},
        {"layer": 1, "head": 0, "rank": 2, "score": 0.1, "name": "L1H0"},
    ])  # fmt: skip
    write_table(scores, HEAD_SCORES, tmp_path / "scores.csv")
    assert scored_heads(str(tmp_path / "scores.csv")) == [(0, 3), (2, 1), (1, 0)]

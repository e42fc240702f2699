"""Aggregation and agreement: tables only."""

import numpy as np
import pandas as pd
import pytest
from causal_files import filled
from scipy import stats

from vlmdiff.heads.aggregate import aggregate_heads, head_scores
from vlmdiff.heads.agreement import agreement, correlation
from vlmdiff.heads.report import head_arms, random_sets, scored_heads
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
    return pd.DataFrame(rows)


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


def test_correlation_equals_scipy_and_is_nan_where_undefined():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, size=30).astype(float)
    second = first + rng.normal(size=30)
    assert correlation(first, second, ranks=True) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert correlation(first, second, ranks=False) == pytest.approx(stats.pearsonr(first, second).statistic)
    assert np.isnan(correlation(first, np.ones(30), ranks=True))
    assert np.isnan(correlation(first[:2], second[:2], ranks=False))


def test_agreement_by_feature_and_pooled():
    table = attribution(scale=1000.0)
    exact = table.drop(columns=["method_a", "method_b", "signed"]).assign(
        exact=-table["signed"], exact_abs=table["method_a"] ** 3, metric_clean=0.0, metric_corrupt=0.0
    )
    rows = pd.DataFrame(agreement(table, exact))
    assert list(rows["name"]) == ["L0F7"] * 3 + ["L1F3"] * 3 + ["pooled"] * 3
    deep = rows[rows["name"] == "L1F3"].set_index("method")
    assert deep.loc["method_a", "spearman"] == pytest.approx(1)
    assert deep.loc["method_a", "pearson"] < 1
    assert deep.loc["signed", "spearman"] == pytest.approx(-1)
    pooled = rows[rows["name"] == "pooled"].set_index("method")
    assert (pooled["heads"] == 6).all()
    # Each feature is put on one scale first: negation stays exact across features.
    assert pooled.loc["signed", "pearson"] == pytest.approx(-1)
    assert agreement(table.head(0), exact.head(0)) == []
    # A head that was not patched takes no part.
    assert [row["heads"] for row in agreement(table, exact.iloc[:-1])] == [2] * 3 + [3] * 3 + [5] * 3


def test_each_method_is_held_against_its_own_reference():
    table = pd.concat([attribution(seed=seed) for seed in (0, 1)]).drop_duplicates(["name", "layer", "head"])
    exact = table[["concept", "feature_layer", "feature", "name", "layer", "head"]].assign(
        exact=table["signed"] * 2, exact_abs=table["method_b"] ** 2, metric_clean=0.0, metric_corrupt=0.0
    )
    rows = pd.DataFrame(agreement(table, exact))
    deep = rows[rows["name"] == "L1F3"].set_index("method")
    assert list(deep["reference"]) == ["exact_abs", "exact_abs", "exact"]
    assert deep.loc["signed", "pearson"] == pytest.approx(1)
    assert deep.loc["method_b", "spearman"] == pytest.approx(1)
    assert deep.loc["method_a", "spearman"] < 1
    # Pooled: each column over its sum of absolute values within each feature.
    scaled = (
        [part["signed"] / part["signed"].abs().sum() for _, part in table.groupby("name")],
        [part["method_b"] ** 2 / (part["method_b"] ** 2).sum() for _, part in table.groupby("name")],
    )
    pooled = rows[rows["name"] == "pooled"].set_index("method")
    expected = np.corrcoef(
        np.concatenate([part["method_b"] / part["method_b"].sum() for _, part in table.groupby("name")]),
        np.concatenate(scaled[1]),
    )[0, 1]
    assert pooled.loc["method_b", "pearson"] == pytest.approx(expected)
    assert pooled.loc["signed", "pearson"] == pytest.approx(1)


def test_random_heads_are_in_no_top_set_and_differ():
    heads = [(layer, head) for layer in range(4) for head in range(4)]
    arms = list(head_arms(heads, [1, 3], 20, 0))
    assert [arm.heads for arm in arms if arm.arm == "top"] == [tuple(heads[:1]), tuple(heads[:3])]
    for size, count in ((1, 13), (3, 20)):
        drawn = [arm.heads for arm in arms if arm.arm == "random" and arm.size == size]
        assert len(set(drawn)) == len(drawn) == count
        assert not {head for chosen in drawn for head in chosen} & set(heads[:3])
    assert arms == list(head_arms(heads, [1, 3], 20, 0))
    assert random_sets(heads[:2], 3, 20, 0) == []
    # All heads at once are a set too; nothing is left to draw from.
    assert [(arm.arm, arm.size) for arm in head_arms(heads, [16, 17], 20, 0)] == [("top", 16)]
    # As many sets as are asked for, or fewer: all there are, in order.
    assert random_sets(heads[:3][::-1], 2, 3, 0) == [
        (heads[0], heads[1]),
        (heads[0], heads[2]),
        (heads[1], heads[2]),
    ]


def test_heads_are_read_by_rank(tmp_path):
    scores = filled(HEAD_SCORES, [
        {"layer": 2, "head": 1, "rank": 1, "score": 0.2, "name": "L2H1"},
        {"layer": 0, "head": 3, "rank": 0, "score": 0.7, "name": "L0H3"},
        {"layer": 1, "head": 0, "rank": 2, "score": 0.1, "name": "L1H0"},
    ])  # fmt: skip
    write_table(scores, HEAD_SCORES, tmp_path / "scores.csv")
    assert scored_heads(str(tmp_path / "scores.csv")) == [(0, 3), (2, 1), (1, 0)]

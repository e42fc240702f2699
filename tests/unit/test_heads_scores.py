"""Aggregation and agreement: tables only."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vlmdiff.heads.aggregate import aggregate_heads, head_scores
from vlmdiff.heads.agreement import agreement, correlation
from vlmdiff.heads.report import head_arms, random_sets
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

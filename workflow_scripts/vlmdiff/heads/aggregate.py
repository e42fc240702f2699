"""One score for each head over all traced features."""

from __future__ import annotations

import pandas as pd

from vlmdiff.tables.causal import HEAD_ATTRIBUTION, HEAD_SCORES
from vlmdiff.tables.io import read_table, write_table

FEATURE = ["feature_layer", "feature"]


def share(attribution: pd.DataFrame, column: str) -> pd.Series:
    """Normalise a column to sum 1 within each feature; 0 where a feature has no attribution at all."""
    total = attribution.groupby(FEATURE)[column].transform("sum")
    return (attribution[column] / total.where(total > 0)).fillna(0.0)


def mean_share(attribution: pd.DataFrame) -> pd.Series:
    """Return the score of each head for each feature: the mean of its shares by methods A and B."""
    return (share(attribution, "method_a") + share(attribution, "method_b")) / 2


def head_scores(attribution: pd.DataFrame) -> pd.DataFrame:
    """Average normalised attributions over the features for which a head was eligible.

    Args:
        attribution: rows of attribution.csv; a head has rows only for features at or above its block.

    Returns:
        Columns layer, head, score_a, score_b, features, score, rank, name; best first.
    """
    shares = attribution.assign(
        score_a=share(attribution, "method_a"), score_b=share(attribution, "method_b")
    )
    scores = shares.groupby(["layer", "head"], as_index=False).agg(
        score_a=("score_a", "mean"), score_b=("score_b", "mean"), features=("feature", "size")
    )
    scores["score"] = (scores["score_a"] + scores["score_b"]) / 2
    scores = scores.sort_values(["score", "layer", "head"], ascending=[False, True, True], ignore_index=True)
    names = [f"L{layer}H{head}" for layer, head in zip(scores["layer"], scores["head"])]
    return scores.assign(rank=range(len(scores)), name=pd.Series(names, dtype=str))


def aggregate_heads(attribution: str, output: str, *, concept: str) -> None:
    """Read attribution.csv and write scores.csv."""
    scores = head_scores(read_table(attribution, HEAD_ATTRIBUTION))
    write_table(scores.assign(concept=concept), HEAD_SCORES, output)

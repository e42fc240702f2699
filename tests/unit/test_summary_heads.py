"""The section on heads: agreement is claimed for the score that ranks, or not at all."""

import math

import pandas as pd
import pytest
from feature_tables import table

from vlmdiff.summary.heads import describe_agreement
from vlmdiff.summary.sections import Section
from vlmdiff.tables.causal import HEAD_AGREEMENT


def agreement(value: float, low: float, high: float) -> pd.DataFrame:
    """One feature and all of them pooled, by every method; only the pooled score says what is asked."""
    rows = []
    for place, name in enumerate(("L1F7", "pooled")):
        for method, shift in (("method_a", 0.11), ("score", 0.0), ("method_b", -0.22), ("signed", -1.0)):
            found = {"spearman": value + shift, "spearman_low": low, "spearman_high": high}
            if name != "pooled":
                found = {"spearman": 0.5 + shift, "spearman_low": math.nan, "spearman_high": math.nan}
            rows.append({"name": name, "method": method, "features": 1 + 4 * place, "heads": 16, **found})
    return table(HEAD_AGREEMENT, rows).assign(seed=3, concept="space")


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((0.7, 0.001, 0.9), "Spearman 0.7 [0.001, 0.9]: they agree."),
        ((0.69, 0.5, 0.9), "Spearman 0.69 [0.5, 0.9], below 0.7: **weak**."),
        ((0.8, 0.0, 0.9), "Spearman 0.8 [0, 0.9], and its interval reaches 0: **weak**."),
        ((0.8, math.nan, math.nan), "Spearman 0.8; too few features for an interval"),
    ],
)
def test_agreement_is_claimed_for_the_pooled_score(numbers, verdict):
    section = Section("Heads")
    describe_agreement(section, agreement(*numbers))
    text = "\n".join([*section.lines, *section.untestable])
    assert f"space, seed 3: the score that ranks heads (mean of A and B) against exact patching, pooled over 5 features and 16 pairs of feature and head: {verdict}" in text  # fmt: skip  # noqa: E501
    assert text.count("the score that ranks heads") == 1
    assert "| feature | method a | score | method b | signed |" in text
    assert "| L1F7 | 0.61 | 0.5 | 0.28 | -0.5 |" in text
    failed = [verdict in line for line in section.failed]
    assert failed == ([True] if "weak" in verdict else [])
    # What cannot be tested is neither a success nor a failure.
    assert section.claims == (0 if "too few" in verdict else 1)
    assert len(section.untestable) == 1 - section.claims

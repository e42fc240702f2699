"""How good a ranking is, held against which features are really spatial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.interventions.selection_rules import RULES
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.scoreboard import METHOD_LIMITS, METHOD_RANKING, METHOD_SCORES
from vlmdiff.tables.world import GROUND_TRUTH
from vlmdiff.world.ground_truth import quality_row

FEATURE = ["layer", "feature"]
# By their best label, or by any beyond chance: column of GROUND_TRUTH, ending of columns of METHOD_SCORES.
DEFINITIONS = (("spatial", ""), ("spatial_match", "_any"))
NOT_TOLD = -1
# Smallest effect sizes that are tried.
EFFECT_SIZES = np.round(np.arange(0.1, 2.01, 0.1), 1)
# What a submission has in the place of a rule, a concept and a contrast.
OWN = "own"


def average_precision(real: np.ndarray, score: np.ndarray) -> float:
    """Return the area under precision and recall, equal scores taken together; NaN if nothing is real.

    The sum of precision times the step of recall, over all thresholds, largest first.

    Args:
        real: (n,) truth.
        score: (n,) scores; -inf for what is not ranked.
    """
    if not real.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(score[order][1:] != score[order][:-1], True)
    hits, given = np.cumsum(real[order])[last], np.arange(1, len(real) + 1)[last]
    return float((np.diff(hits / real.sum(), prepend=0.0) * hits / given).sum())


def quality(truth: pd.DataFrame, ranked: pd.DataFrame) -> dict[str, float]:
    """Return how good a ranking is (the columns of METHOD_SCORES, rule and seed aside).

    Args:
        truth: GROUND_TRUTH of all features, or of all directions that were submitted.
        ranked: layer, feature, score and, if that is told, selected.
    """
    chosen = ranked.set_index(FEATURE)
    frame = truth.set_index(FEATURE).join(chosen)
    score = frame["score"].fillna(-np.inf).to_numpy()
    told = "selected" in ranked
    selected = frame["selected"].eq(True).to_numpy() if told else np.zeros(len(frame), bool)
    row = {"ranked": len(ranked), "selected": int(selected.sum()) if told else NOT_TOLD}
    for column, ending in DEFINITIONS:
        real = frame[column].to_numpy(bool)
        counted = quality_row(selected, real)
        found = {name: counted[name] if told else np.nan for name in ("precision", "recall", "f1")}
        found["average_precision"] = average_precision(real, score)
        row |= {f"{name}{ending}": value for name, value in found.items()}
    return row


def limited(truth: pd.DataFrame, ranked: pd.DataFrame) -> list[dict[str, float]]:
    """Return what a rule would select by other effect sizes (METHOD_LIMITS, rule and seed aside).

    Args:
        truth: GROUND_TRUTH of all features.
        ranked: METHOD_RANKING of the rule, whose scores are effect sizes.
    """
    rows = []
    for size in EFFECT_SIZES:
        chosen = ranked.assign(selected=ranked["certain"] & (ranked["score"] >= size))
        rows.append({"min_effect_size": size} | quality(truth, chosen))
    return rows


def score_ranking(
    ranking: str | Path,
    truth: str | Path,
    outputs: tuple[str | Path, str | Path],
    by_effect_size: bool,
    seed: int,
) -> None:
    """Write how good a ranking is under each rule, and by which effect size (METHOD_SCORES, METHOD_LIMITS).

    Args:
        ranking: METHOD_RANKING.
        truth: GROUND_TRUTH of the same dictionary.
        outputs: paths of both tables.
        by_effect_size: whether scores are effect sizes; other scores have no limit that could be set.
        seed: index of the seed.
    """
    ranked, real = read_table(ranking, METHOD_RANKING), read_table(truth, GROUND_TRUTH)
    of = {rule: ranked[ranked["rule"] == rule] for rule in RULES}
    scores = [{"rule": rule} | quality(real, part) for rule, part in of.items()]
    limits = [
        {"rule": rule} | row
        for rule, part in of.items()
        for row in (limited(real, part) if by_effect_size else ())
    ]
    for rows, contract, output in zip((scores, limits), (METHOD_SCORES, METHOD_LIMITS), outputs, strict=True):
        table = pd.DataFrame(rows, columns=[name for name in contract.names if name != "seed"])
        write_table(table.assign(seed=seed), contract, output)

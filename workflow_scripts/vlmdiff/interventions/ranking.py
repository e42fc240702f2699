"""Rank final features by what their ablation does on validation data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmdiff.interventions.ablation import plan_ablation, unit_directions
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    QuestionSets,
    dictionary_folders,
    feature_name,
    table_of,
)
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.features import FINAL_FEATURES
from vlmdiff.tables.io import read_table, write_table

log = logging.getLogger(__name__)


def candidate_features(final_features: str | Path, count: int) -> list[Feature]:
    """Return at most `count` final features, strongest contrast (smallest adjusted p) first."""
    table = (
        read_table(final_features, FINAL_FEATURES)
        .sort_values(["log_p_adjusted", "layer", "feature"])
        .head(count)
    )
    return list(zip(table["layer"].astype(int), table["feature"].astype(int)))


def mean_effects(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    directions: Mapping[Feature, Tensor],
    features: Sequence[Feature],
    scope: str,
) -> list[dict[str, float]]:
    """Return the mean change of accuracy and margin of both data sets for each feature alone."""
    clean = [evaluation.answers() for evaluation in evaluations.values()]
    effects = []
    for feature in progress(features, "features"):
        plan = plan_ablation(subject, directions, [feature], scope)
        row = {}
        for role, before, evaluation in zip(("target", "control"), clean, evaluations.values()):
            after = evaluation.answers(plan, plan.first_block)
            row[f"{role}_delta_accuracy"] = float(after.correct.mean() - before.correct.mean())
            row[f"{role}_delta_margin"] = float((after.margin - before.margin).mean())
        effects.append(row)
    return effects


def rank_features(
    model: ModelFiles,
    questions: QuestionSets,
    dictionaries: Sequence[str],
    final_features: str,
    output: str,
    *,
    layers: Sequence[int],
    concept: str,
    scope: str,
    candidates: int,
) -> None:
    """Ablate each candidate alone on validation data and write ranking.csv, the most specific first.

    Specificity is how much more the target's margin falls than the control's; the margin is used
    because accuracy saturates.

    Args:
        model: the VLM.
        questions: validation data.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        final_features: final_features.csv of the concept.
        output: ranking.csv.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        scope: where a direction is removed, `own_layer` or `all_layers`.
        candidates: at most this many features are tried.
    """
    features = candidate_features(final_features, candidates)
    rows: list[dict[str, Any]] = []
    if not features:
        log.warning("concept '%s' has no final features: nothing to rank", concept)
    else:
        subject = model.load()
        directions = unit_directions(dictionary_folders(dictionaries, layers), features)
        effects = mean_effects(subject, questions.evaluations(subject), directions, features, scope)
        rows = [
            {"layer": feature[0], "feature": feature[1], "name": feature_name(feature), **effect}
            for feature, effect in zip(features, effects)
        ]
    table = table_of(
        rows, [name for name in RANKING.names if name not in ("concept", "rank", "scope", "specificity")]
    )
    table["specificity"] = table["control_delta_margin"] - table["target_delta_margin"]
    table = table.sort_values(
        ["specificity", "layer", "feature"], ascending=[False, True, True], ignore_index=True
    )
    write_table(table.assign(concept=concept, scope=scope, rank=range(len(table))), RANKING, output)

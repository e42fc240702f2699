"""Rank final features, and pools of matched random ones, by what their ablation does on validation data.

A set that was chosen as the best of many is held against sets that were chosen in the same way: the null of
"the best n candidates" is "the best n" of random pools, each as large as the candidates, ranked by the same
function on the same questions (docs/understand/rank_features.md). A pool takes each candidate or one of the
random features that match it, all with the same chance.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from vlmdiff.interventions.activity import feature_activity
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.feature_ablation import plan_ablation, unit_directions
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    QuestionSets,
    dictionary_folders,
)
from vlmdiff.interventions.matching import FEATURE, MatchedFeatures, keys, pools
from vlmdiff.interventions.screening import estimated_changes
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.features import CONTRAST, FINAL_FEATURES
from vlmdiff.tables.io import read_table, write_table

Array = np.ndarray
log = logging.getLogger(__name__)
SHOWN = 5
ROLES = ("target", "control")
MEASURED = [f"{role}_{name}" for role in ROLES for name in ("delta_accuracy", "delta_margin")]


def candidate_features(final_features: str | Path, count: int) -> list[Feature]:
    """Return at most `count` final features, strongest contrast (smallest adjusted p) first."""
    table = read_table(final_features, FINAL_FEATURES).sort_values(["log_p_adjusted", *FEATURE]).head(count)
    return keys(table)


def concept_features(final_features: str | Path, contrast: str | Path) -> list[Feature]:
    """Return the features that are no controls: the final ones, and all that the contrast selects.

    Selected but not adapted, they encode the concept too, and would make a control look causal.
    """
    tests = read_table(contrast, CONTRAST, [*FEATURE, "selected"])
    final = read_table(final_features, FINAL_FEATURES, FEATURE)
    return sorted({*keys(final), *keys(tests[tests["selected"]])})


def specificity(target: Array, control: Array) -> Array:
    """Return how much more the target's margin falls than the control's changes, down or up."""
    return -target - np.abs(control)


def screen(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    directions: Mapping[Feature, Tensor],
    scope: str,
    batch_tokens: int,
) -> pd.DataFrame:
    """Estimate every feature's effect to first order: one row a feature, indexed by layer and feature."""
    features = list(directions)
    found = {
        f"{role}_estimate": estimated_changes(subject, one, directions, features, scope, batch_tokens)
        for role, one in zip(ROLES, evaluations.values())
    }
    return pd.DataFrame(found, index=pd.MultiIndex.from_tuples(features, names=FEATURE))


def measure_alone(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    directions: Mapping[Feature, Tensor],
    features: Sequence[Feature],
    scope: str,
) -> pd.DataFrame:
    """Measure the mean change of accuracy and margin of both data sets for each feature alone."""
    clean = [evaluation.answers() for evaluation in evaluations.values()]
    rows = []
    for feature in progress(features, "features"):
        plan = plan_ablation(subject, directions, [feature], scope)
        row = {}
        for role, before, evaluation in zip(ROLES, clean, evaluations.values()):
            after = evaluation.answers(plan)
            row[f"{role}_delta_accuracy"] = float(after.correct.mean() - before.correct.mean())
            row[f"{role}_delta_margin"] = float((after.margin - before.margin).mean())
        rows.append(row)
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(features, names=FEATURE), columns=MEASURED)


def shortlist(estimated: Array, count: int) -> Array:
    """Return the places of a set's `count` most specific features by estimate, the first of equals."""
    return np.argsort(-estimated, kind="stable")[:count]


def ranking_order(measured: Array, estimated: Array) -> Array:
    """Return the order of a set: measured features by their specificity, then the others by their estimate's.

    Args:
        measured: specificity of each feature, NaN where it was not measured.
        estimated: specificity of its estimates.
    """
    return np.lexsort((-estimated, np.where(np.isnan(measured), np.inf, -measured)))


def ranked(found: pd.DataFrame, features: Sequence[Feature], verified: int) -> pd.DataFrame:
    """Rank one set of features by what is known of them.

    Args:
        found: estimates and MEASURED of every feature, indexed by layer and feature.
        features: the set, in the order of the features that they stand for.
        verified: how many of the first by estimate count as measured; what another set's shortlist brought
            to light does not help this one, so that all sets are treated alike.

    Returns:
        Columns of `found`, layer, feature, specificity, rank, place (index in `features`); best first.
    """
    own = found.loc[list(features)].reset_index().assign(place=range(len(features)))
    estimated = specificity(own["target_estimate"].to_numpy(), own["control_estimate"].to_numpy())
    unknown = np.ones(len(own), dtype=bool)
    unknown[shortlist(estimated, verified)] = False
    own.loc[unknown, MEASURED] = np.nan
    own["specificity"] = specificity(own["target_delta_margin"], own["control_delta_margin"])
    order = ranking_order(own["specificity"].to_numpy(), estimated)
    return own.iloc[order].reset_index(drop=True).assign(rank=range(len(own)))


def rank_sets(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    directions: Mapping[Feature, Tensor],
    sets: Sequence[Sequence[Feature]],
    *,
    scope: str,
    verified: int,
    batch_tokens: int,
) -> list[pd.DataFrame]:
    """Rank several sets of features in one and the same way; what sets share is measured once.

    Args:
        subject: the model.
        evaluations: validation data, target first.
        directions: unit direction of every feature of the sets.
        sets: the sets.
        scope: where a direction is removed.
        verified: how many of each set's first by estimate are measured exactly.
        batch_tokens: most tokens in one pass.

    Returns:
        For each set what `ranked` returns.
    """
    estimates = screen(subject, evaluations, directions, scope, batch_tokens)
    estimated = pd.Series(
        specificity(estimates["target_estimate"], estimates["control_estimate"]), index=estimates.index
    )
    chosen = sorted(
        {one[place] for one in sets for place in shortlist(estimated.loc[one].to_numpy(), verified)}
    )
    log.info(
        "%d features estimated; the best %d of each set are measured: %d",
        len(estimates),
        verified,
        len(chosen),
    )
    found = estimates.join(measure_alone(subject, evaluations, directions, chosen, scope))
    return [ranked(found, one, verified) for one in sets]


def described(
    found: pd.DataFrame, pool: int, candidates: Sequence[Feature], activity: pd.DataFrame
) -> pd.DataFrame:
    """Add what RANKING says of each feature beside its effects: whom it stands for, and how active it is.

    Args:
        found: what `ranked` returns of a set.
        pool: number of the pool; -1 for the candidates.
        candidates: the features that the set stands for, in its order.
        activity: rate and energy, indexed by layer and feature.
    """
    active = activity.loc[keys(found)].reset_index(drop=True)
    return found.assign(
        pool=pool,
        name=[feature_name(feature) for feature in keys(found)],
        stands_for=[feature_name(candidates[place]) for place in found["place"]],
        rate=active["rate"],
        energy=active["energy"],
    )


def tell_silent(features: Sequence[Feature], activity: pd.DataFrame) -> None:
    """Warn of features that never fire where they are ranked, as those of a user's own may.

    Args:
        features: what is ranked.
        activity: columns layer, feature, rate.
    """
    rates = activity.set_index(FEATURE)["rate"]
    silent = [feature_name(feature) for feature in features if rates.loc[feature] == 0]
    if silent:
        more = f" and {len(silent) - SHOWN} more" if len(silent) > SHOWN else ""
        log.warning(
            "%d of %d features fire on no text token of the target's validation questions (%s%s; `rate` is 0 "
            "in the ranking): what ablating them does says nothing of what they stand for; rank others, or "
            "name questions on which they fire",
            len(silent), len(features), ", ".join(silent[:SHOWN]), more,
        )  # fmt: skip


def rank_features(
    model: ModelFiles,
    questions: QuestionSets,
    dictionaries: Sequence[str],
    tables: Mapping[str, str],
    outputs: tuple[str, str],
    *,
    layers: Sequence[int],
    concept: str,
    scope: str,
    candidates: int,
    verified: int,
    random_draws: int,
    massive_ratio: float,
    seed: int,
) -> None:
    """Rank the candidates and matched random pools on validation data; write two tables RANKING.

    Args:
        model: the VLM.
        questions: validation data.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        tables: paths of `final_features` and `contrast`.
        outputs: where to write the ranking of the candidates, and the rankings of the random pools.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        scope: where a direction is removed, `own_layer` or `all_layers`.
        candidates: at most this many features are tried.
        verified: how many of the first by estimate are measured exactly, of the candidates and of each pool.
        random_draws: number of pools.
        massive_ratio: see `feature_activity`.
        seed: seed of the job.
    """
    features = candidate_features(tables["final_features"], candidates)
    rankings: list[pd.DataFrame] = []
    if features:
        subject, folders = model.load(), dictionary_folders(dictionaries, layers)
        evaluations = questions.evaluations(subject)
        activity = feature_activity(subject, next(iter(evaluations.values())), folders, massive_ratio)
        matched = MatchedFeatures(activity, concept_features(tables["final_features"], tables["contrast"]))
        features = matched.testable(features)
        tell_silent(features, activity)
    if not features:
        log.warning("concept '%s' has no final features that can be tested: nothing to rank", concept)
    else:
        generator = np.random.default_rng(seed)
        sets = [features, *pools(matched.strata(features, generator), random_draws, generator)]
        every = sorted({feature for one in sets for feature in one})
        how = {"scope": scope, "verified": verified, "batch_tokens": questions.batch_tokens}
        found = rank_sets(subject, evaluations, unit_directions(folders, every), sets, **how)
        known = activity.set_index(FEATURE)
        rankings = [described(one, pool, features, known) for pool, one in enumerate(found, start=-1)]
    names = [name for name in RANKING.names if name not in ("concept", "scope")]
    for part, output in zip((rankings[:1], rankings[1:]), outputs, strict=True):
        table = pd.concat(part, ignore_index=True) if part else pd.DataFrame(columns=names)
        write_table(table[names].assign(concept=concept, scope=scope), RANKING, output)

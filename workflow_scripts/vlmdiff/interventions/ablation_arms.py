"""Ablate the best features, alone and in sets, on test data, beside the best of random pools."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from vlmdiff.interventions.activity import Variance, feature_activity
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.feature_ablation import FeatureAblation, plan_ablation, unit_directions
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    QuestionSets,
    dictionary_folders,
    ranked_features,
    ranked_pools,
    table_of,
)
from vlmdiff.interventions.matching import FEATURE
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.causal import ABLATION
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.io import write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One set of features that is ablated together."""

    arm: str
    size: int
    draw: int
    features: tuple[Feature, ...]


def features_of(arms: Sequence[Arm]) -> list[Feature]:
    """Return the features of all arms, each once."""
    return sorted({feature for arm in arms for feature in arm.features})


def reported_sizes(sizes: Sequence[int], available: int) -> list[int]:
    """Return the set sizes that there are features for; a set of one is reported as a single feature."""
    missing = [size for size in sizes if size > available]
    if missing:
        log.warning("sets of %s features are skipped: only %d are ranked", missing, available)
    return sorted({size for size in sizes if 1 < size <= available})


def selected_arms(ranked: Sequence[Feature], single_features: int, sizes: Sequence[int]) -> Iterator[Arm]:
    """Yield the best features one by one, then the sets of the best ones."""
    for rank, feature in enumerate(ranked[:single_features]):
        yield Arm("selected", 1, rank, (feature,))
    for size in sizes:
        yield Arm("selected", size, 0, tuple(ranked[:size]))


def pool_arms(pools: Sequence[Sequence[Feature]], sizes: Sequence[int]) -> Iterator[Arm]:
    """Yield what each pool of random features, ranked as the candidates were, has for every size.

    Single features are all held against the best one of each pool, the most favourable of its ranks.
    """
    for size in sorted({1, *sizes}):
        for draw, features in enumerate(pools):
            yield Arm("random", size, draw, tuple(features[:size]))


@dataclass(frozen=True)
class Weight:
    """How much the ablated features do on the target's questions, and carry of the residual stream.

    Attributes:
        activity: rate and energy, indexed by layer and feature.
        variance: tokens by which it is told what ablations remove.
    """

    activity: pd.DataFrame
    variance: Variance

    @classmethod
    def of(
        cls, subject: Subject, evaluation: Evaluation, activity: pd.DataFrame, massive_ratio: float
    ) -> Weight:
        """Measure on an evaluation's questions what is carried; `activity` is told (`feature_activity`)."""
        return cls(
            activity.set_index(FEATURE),
            Variance.of(subject, evaluation, range(subject.n_layers), massive_ratio),
        )

    def row(self, features: Sequence[Feature], plan: FeatureAblation) -> dict[str, float]:
        """Return the columns rate, energy and removed of a set of features."""
        means = self.activity.loc[list(features), ["rate", "energy"]].mean()
        return {**means.astype(float), "removed": self.variance.removed(plan)}


def ablate_arms(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    directions: Mapping[Feature, Tensor],
    arms: Sequence[Arm],
    weight: Weight,
    scope: str,
    resamples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of ABLATION, the concept aside; arms of the same features are measured once."""
    effects = {
        name: EffectTable(name, evaluation.samples, evaluation.answers(), resamples, seed)
        for name, evaluation in evaluations.items()
    }
    same: dict[frozenset[Feature], list[Arm]] = {}
    for arm in arms:
        same.setdefault(frozenset(arm.features), []).append(arm)
    for alike in progress(list(same.values()), "ablations"):
        features = alike[0].features
        plan = plan_ablation(subject, directions, features, scope)
        carried = weight.row(features, plan)
        for name, evaluation in evaluations.items():
            answers = evaluation.answers(plan)
            for row in effects[name].rows(answers):
                yield from ({**head(arm), "scope": scope, **carried, **row} for arm in alike)


def head(arm: Arm) -> dict[str, Any]:
    """Return the columns that name an arm."""
    names = ";".join(map(feature_name, arm.features))
    return {"arm": arm.arm, "size": arm.size, "draw": arm.draw, "features": names}


def evaluate_ablation(
    model: ModelFiles,
    questions: QuestionSets,
    dictionaries: Sequence[str],
    tables: Mapping[str, str],
    output: str,
    *,
    layers: Sequence[int],
    concept: str,
    scope: str,
    single_features: int,
    set_sizes: Sequence[int],
    bootstrap: int,
    massive_ratio: float,
    seed: int,
) -> None:
    """Ablate ranked features and the best of random pools on test data; write ABLATION of one scope.

    Args:
        model: the VLM.
        questions: test data.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        tables: paths of `ranking` and `pools`, the rankings of final and of random features.
        output: where to write it.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        scope: where directions are removed, `own_layer` or `all_layers`.
        single_features: how many of the best features are ablated one by one.
        set_sizes: sizes of the sets of best features.
        bootstrap: resamples of the paired bootstrap.
        massive_ratio: see `feature_activity`.
        seed: seed of the job.
    """
    largest = max([single_features, *set_sizes])
    chosen = ranked_features(tables["ranking"], largest)
    rows: list[dict[str, Any]] = []
    if not chosen:
        log.warning("concept '%s' has no ranked features: nothing to ablate", concept)
    else:
        sizes = reported_sizes(set_sizes, len(chosen))
        pools = ranked_pools(tables["pools"], largest)
        arms = [*selected_arms(chosen, single_features, sizes), *pool_arms(pools, sizes)]
        rows = ablate(
            model,
            questions,
            dictionary_folders(dictionaries, layers),
            arms,
            scope,
            bootstrap,
            massive_ratio,
            seed,
        )
    names = [name for name in ABLATION.names if name != "concept"]
    write_table(table_of(rows, names).assign(concept=concept), ABLATION, output)


def ablate(
    model: ModelFiles,
    questions: QuestionSets,
    folders: Mapping[int, Path],
    arms: Sequence[Arm],
    scope: str,
    bootstrap: int,
    massive_ratio: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Load a model and return the effects of all arms in it (`ablate_arms`)."""
    subject = model.load()
    evaluations = questions.evaluations(subject)
    directions = unit_directions(folders, features_of(arms))
    target = next(iter(evaluations.values()))
    activity = feature_activity(subject, target, folders, massive_ratio)
    weight = Weight.of(subject, target, activity, massive_ratio)
    return list(ablate_arms(subject, evaluations, directions, arms, weight, scope, bootstrap, seed))

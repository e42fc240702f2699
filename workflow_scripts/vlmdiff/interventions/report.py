"""Ablate the best features, alone and in sets, on test data, beside matched random ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vlmdiff.interventions.ablation import plan_ablation, unit_directions
from vlmdiff.interventions.effects import EffectTable
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    QuestionSets,
    dictionary_folders,
    feature_name,
    ranked_features,
    table_of,
)
from vlmdiff.interventions.matching import MatchedFeatures, keys
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import ABLATION
from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES
from vlmdiff.tables.io import read_table, write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One set of features that is ablated together."""

    arm: str
    size: int
    draw: int
    features: tuple[Feature, ...]


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


def random_arms(selected: Sequence[Arm], matched: MatchedFeatures, draws: int, seed: int) -> Iterator[Arm]:
    """Yield `draws` matched random features, then as many sets of each size.

    The single random features match the selected ones in turn: draw `d` matches the one of rank
    `d mod (number of single features)`.
    """
    singles = [arm for arm in selected if arm.size == 1]
    sets = [arm for arm in selected if arm.size > 1]
    for models in (singles, *([arm] for arm in sets)):
        for draw in range(draws):
            model = models[draw % len(models)]
            generator = np.random.default_rng(derive_seed(seed, "matched", model.size, draw))
            yield Arm("random", model.size, draw, tuple(matched.draw(model.features, generator)))


def controls(adapted: str, contrast: str, final_features: str) -> MatchedFeatures:
    """Read the tables from which matched random features are drawn."""
    tests = read_table(contrast, CONTRAST, ["layer", "feature", "selected"])
    return MatchedFeatures(
        read_table(adapted, ADAPTED, ["layer", "feature", "visual_rate"]),
        keys(read_table(final_features, FINAL_FEATURES, ["layer", "feature"])),
        keys(tests[tests["selected"]]),
    )


def ablate_arms(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    directions: Mapping[Feature, Tensor],
    arms: Sequence[Arm],
    scope: str,
    resamples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table ABLATION, the concept aside."""
    effects = {
        name: EffectTable(name, evaluation.groups, evaluation.answers(), resamples, seed)
        for name, evaluation in evaluations.items()
    }
    for arm in progress(arms, "ablations"):
        plan = plan_ablation(subject, directions, arm.features, scope)
        head = {"scope": scope, "arm": arm.arm, "size": arm.size, "draw": arm.draw}
        head["features"] = ";".join(map(feature_name, arm.features))
        for name, evaluation in evaluations.items():
            answers = evaluation.answers(plan, plan.first_block)
            yield from ({**head, **row} for row in effects[name].rows(answers))


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
    random_draws: int,
    bootstrap: int,
    seed: int,
) -> None:
    """Ablate ranked and matched random features on test data and write the table ABLATION of one scope.

    The random draws depend on the seed alone, so that two scopes compare the same features.

    Args:
        model: the VLM.
        questions: test data.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        tables: paths of `ranking`, `final_features`, `contrast` and `adapted`.
        output: where to write it.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        scope: where directions are removed, `own_layer` or `all_layers`.
        single_features: how many of the best features are ablated one by one.
        set_sizes: sizes of the sets of best features.
        random_draws: matched random features, and sets of each size.
        bootstrap: resamples of the paired bootstrap.
        seed: seed of the job.
    """
    sizes = list(set_sizes)
    ranked = ranked_features(tables["ranking"], max([single_features, *sizes]))
    rows: list[dict[str, Any]] = []
    if not ranked:
        log.warning("concept '%s' has no ranked features: nothing to ablate", concept)
    else:
        selected = list(selected_arms(ranked, single_features, reported_sizes(sizes, len(ranked))))
        matched = controls(tables["adapted"], tables["contrast"], tables["final_features"])
        arms = [*selected, *random_arms(selected, matched, random_draws, seed)]
        subject = model.load()
        features = sorted({feature for arm in arms for feature in arm.features})
        directions = unit_directions(dictionary_folders(dictionaries, layers), features)
        evaluations = questions.evaluations(subject)
        rows = list(ablate_arms(subject, evaluations, directions, arms, scope, bootstrap, seed))
    names = [name for name in ABLATION.names if name != "concept"]
    write_table(table_of(rows, names).assign(concept=concept), ABLATION, output)

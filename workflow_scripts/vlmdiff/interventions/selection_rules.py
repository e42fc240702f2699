"""Which filter matters: ablate features of each selection rule (docs/understand/method.md section 7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.interventions.ablation_arms import Arm, Weight, ablate_arms, features_of
from vlmdiff.interventions.activity import known_activity
from vlmdiff.interventions.feature_ablation import unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, dictionary_folders, table_of
from vlmdiff.interventions.matching import FEATURE, MatchedFeatures, keys
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import SELECTION
from vlmdiff.tables.features import ADAPTED, CONTRAST, LEXICAL
from vlmdiff.tables.io import read_table, write_table

SCOPE = "all_layers"
RULES = ("contrast", "contrast_visual", "contrast_lexical", "contrast_adapted", "full")
log = logging.getLogger(__name__)


def judged(tables: Mapping[str, str], unit: str, eps: float) -> pd.DataFrame:
    """Return all features that the contrast tested, strongest first, with one boolean column a filter.

    Args:
        tables: paths of `adapted`, `contrast` and `lexical`.
        unit: unit of the contrast that selects.
        eps: visual energy above which a feature counts as visual.

    Returns:
        layer, feature, selected, log_p, effect_size, visual, adapted, invariant, and counts; sorted by the
        contrast's p.
    """
    columns = ["unit", "selected", "log_p", "log_p_adjusted", "effect_size"]
    counts = [f"{name}_{side}" for name in ("fires", "n") for side in ("target", "baseline")]
    contrast = read_table(tables["contrast"], CONTRAST, [*FEATURE, *columns, *counts])
    tested = contrast[contrast["unit"] == unit]
    adapted = read_table(tables["adapted"], ADAPTED, [*FEATURE, "visual_energy", "adapted"])
    lexical = read_table(tables["lexical"], LEXICAL, [*FEATURE, "invariant"])
    frame = tested.merge(adapted, on=FEATURE).merge(lexical, on=FEATURE, how="left")
    frame["visual"] = frame["visual_energy"] > eps
    frame["invariant"] = frame["invariant"].eq(True)
    return frame.sort_values(["log_p", *FEATURE], ignore_index=True)


def decisions(tables: Mapping[str, str], unit: str, eps: float) -> pd.DataFrame:
    """Return the features that the contrast selects; see `judged`."""
    frame = judged(tables, unit, eps)
    return frame[frame["selected"]].reset_index(drop=True)


def filters(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return what each selection rule asks of a feature beside the contrast, as masks over the rows.

    `contrast_lexical` contains the visual filter: neutral prompts are only tried on visual features.
    """
    return {
        "contrast": pd.Series(True, index=frame.index),
        "contrast_visual": frame["visual"],
        "contrast_lexical": frame["visual"] & frame["invariant"],
        "contrast_adapted": frame["adapted"],
        "full": frame["adapted"] & frame["invariant"],
    }


def by_rule(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the features that each selection rule gives, strongest contrast first."""
    return {rule: frame[mask] for rule, mask in filters(frame).items()}


def selection_arms(
    given: Mapping[str, pd.DataFrame], sizes: Sequence[int], draws: int, seed: int
) -> list[Arm]:
    """Return for every rule and size the first features as draw 0, then random subsets of what it gives.

    Rules that give the same features get the same subsets. A rule that gives fewer features than asked
    for has one set, all of them.
    """
    arms = []
    for rule, part in given.items():
        for size in sorted({min(size, len(part)) for size in sizes if len(part)}):
            arms.append(Arm(rule, size, 0, tuple(keys(part.head(size)))))
            for draw in range(1, draws + 1 if len(part) > size else 1):
                chosen = part.sample(size, random_state=derive_seed(seed, "subset", size, draw))
                arms.append(Arm(rule, size, draw, tuple(keys(chosen))))
    return arms


def matched_arms(
    given: Mapping[str, pd.DataFrame],
    sizes: Sequence[int],
    matched: MatchedFeatures,
    draws: int,
    seed: int,
) -> list[Arm]:
    """Return matched random features in the places of random ones of the last rule that gives any.

    Args:
        given: features of each rule; none is ordered by what ablating it does, so neither are these.
        sizes: features ablated together.
        matched: what random features are drawn from.
        draws: random sets of each size.
        seed: seed of the job.
    """
    wanted = next((keys(part) for part in reversed(given.values()) if len(part)), [])
    arms = []
    for size in sorted({min(size, len(wanted)) for size in sizes if wanted}):
        for draw in range(draws):
            generator = np.random.default_rng(derive_seed(seed, "random", size, draw))
            subset = [wanted[i] for i in sorted(generator.choice(len(wanted), size, replace=False))]
            modelled = matched.testable(subset)
            if len(modelled) == size:
                arms.append(Arm("random", size, draw, tuple(matched.draw(subset, generator))))
    return arms


def evaluate_selection(
    model: ModelFiles,
    questions: QuestionSets,
    dictionaries: Sequence[str],
    tables: Mapping[str, str],
    counted: Mapping[str, Sequence[str]],
    output: str,
    *,
    layers: Sequence[int],
    comparison: str,
    concept: str,
    unit: str,
    eps: float,
    rules: Sequence[str],
    sizes: Sequence[int],
    draws: int,
    random_draws: int,
    bootstrap: int,
    massive_ratio: float,
    seed: int,
) -> None:
    """Ablate features of every selection rule at all layers and write the table SELECTION.

    All rules order their features by the contrast's p. Their strongest features are often the same, so
    random subsets of what each rule gives say how a rule's features are on the whole.

    Args:
        model: the comparison's model.
        questions: test data.
        dictionaries: weights of the comparison's adapted dictionary at each of `layers`.
        tables: paths of `adapted`, `contrast` and `lexical`.
        counted: of crosscoders, `statistics` and `totals` of every layer on the target's data; else empty.
        output: where to write it.
        layers: decoder blocks that have dictionaries.
        comparison, concept: their names.
        unit, eps: see `judged`.
        rules: selection rules, some of `RULES`.
        sizes: features ablated together.
        draws, random_draws: random subsets of each rule's features; sets of matched random features.
        bootstrap: resamples of the paired bootstrap.
        massive_ratio, seed: see `feature_activity`; seed of the job.
    """
    every = by_rule(decisions(tables, unit, eps))
    given = {rule: every[rule] for rule in rules}
    arms = selection_arms(given, sizes, draws, seed)
    rows: list[dict[str, Any]] = []
    if not arms:
        log.warning("%s, concept '%s': the contrast selects nothing to ablate", comparison, concept)
    else:
        subject, folders = model.load(), dictionary_folders(dictionaries, layers)
        evaluations = questions.evaluations(subject)
        crosscoder, target = bool(counted["statistics"]), next(iter(evaluations.values()))
        activity = known_activity(subject, target, folders, massive_ratio, counted)
        weight = Weight.of(subject, target, activity, massive_ratio)
        matched = MatchedFeatures(activity, keys(every["contrast"]))
        arms += matched_arms(given, sizes, matched, random_draws, seed)
        directions = unit_directions(folders, features_of(arms), crosscoder)
        rows = list(ablate_arms(subject, evaluations, directions, arms, weight, SCOPE, bootstrap, seed))
    write_table(by_arm(rows, given).assign(comparison=comparison, concept=concept), SELECTION, output)


def by_arm(rows: Sequence[Mapping[str, Any]], given: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return effects as SELECTION has them, comparison and concept aside."""
    measured = [
        name for name in SELECTION.names if name not in ("comparison", "concept", "rule", "available")
    ]
    table = table_of(rows, [*measured, "arm"]).rename(columns={"arm": "rule"})
    available = table["rule"].map({rule: len(part) for rule, part in given.items()})
    return table.assign(available=available.fillna(0).astype("int64"))

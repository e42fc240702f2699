"""Which filter matters: ablate the first features of each selection rule (docs/method.md section 7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.interventions.ablation import unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, dictionary_folders, table_of
from vlmdiff.interventions.matching import MatchedFeatures, keys
from vlmdiff.interventions.report import Arm, ablate_arms
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import SELECTION
from vlmdiff.tables.features import ADAPTED, CONTRAST, LEXICAL
from vlmdiff.tables.io import read_table, write_table

FEATURE = ["layer", "feature"]
SCOPE = "all_layers"
RULES = ("contrast", "contrast_visual", "contrast_lexical", "contrast_adapted", "full")
log = logging.getLogger(__name__)


def decisions(tables: Mapping[str, str], unit: str, eps: float) -> pd.DataFrame:
    """Return the contrast's features, strongest first, with one boolean column a filter.

    Args:
        tables: paths of `adapted`, `contrast` and `lexical`.
        unit: unit of the contrast that selects.
        eps: visual energy above which a feature counts as visual.

    Returns:
        layer, feature, visual, adapted, invariant; sorted by the contrast's p.
    """
    contrast = read_table(tables["contrast"], CONTRAST, [*FEATURE, "unit", "selected", "log_p_adjusted"])
    chosen = contrast[(contrast["unit"] == unit) & contrast["selected"]]
    adapted = read_table(tables["adapted"], ADAPTED, [*FEATURE, "visual_energy", "adapted"])
    lexical = read_table(tables["lexical"], LEXICAL, [*FEATURE, "invariant"])
    frame = chosen.merge(adapted, on=FEATURE).merge(lexical, on=FEATURE, how="left")
    frame["visual"] = frame["visual_energy"] > eps
    frame["invariant"] = frame["invariant"].eq(True)
    return frame.sort_values(["log_p_adjusted", *FEATURE], ignore_index=True)


def by_rule(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the features that each selection rule gives, strongest contrast first.

    `contrast_lexical` contains the visual filter: neutral prompts are only tried on visual features.
    """
    everything = pd.Series(True, index=frame.index)
    masks = {
        "contrast": everything,
        "contrast_visual": frame["visual"],
        "contrast_lexical": frame["visual"] & frame["invariant"],
        "contrast_adapted": frame["adapted"],
        "full": frame["adapted"] & frame["invariant"],
    }
    return {rule: frame[masks[rule]] for rule in RULES}


def selection_arms(given: Mapping[str, pd.DataFrame], sizes: Sequence[int]) -> list[Arm]:
    """Return a set of the first features of every rule and size; fewer if the rule gives fewer."""
    arms = {
        (rule, min(size, len(part))): Arm(rule, min(size, len(part)), 0, tuple(keys(part.head(size))))
        for rule, part in given.items()
        for size in sizes
        if len(part)
    }
    return list(arms.values())


def random_arms(arms: Sequence[Arm], matched: MatchedFeatures, draws: int, seed: int) -> list[Arm]:
    """Return random sets that match the set of the last rule in layers and firing rates, for every size."""
    models = {arm.size: arm for arm in arms}
    return [
        Arm(
            "random",
            size,
            draw,
            tuple(
                matched.draw(model.features, np.random.default_rng(derive_seed(seed, "random", size, draw)))
            ),
        )
        for size, model in models.items()
        for draw in range(draws)
    ]


def evaluate_selection(
    model: ModelFiles,
    questions: QuestionSets,
    dictionaries: Sequence[str],
    tables: Mapping[str, str],
    output: str,
    *,
    layers: Sequence[int],
    comparison: str,
    concept: str,
    unit: str,
    eps: float,
    sizes: Sequence[int],
    random_draws: int,
    bootstrap: int,
    seed: int,
) -> None:
    """Ablate the first features of every selection rule at all layers and write the table SELECTION.

    All rules order their features by the contrast's p, so that they differ in their filters alone.

    Args:
        model: the comparison's model.
        questions: test data.
        dictionaries: weights of the comparison's adapted dictionary at each of `layers`.
        tables: paths of `adapted`, `contrast` and `lexical`.
        output: where to write it.
        layers: decoder blocks that have dictionaries.
        comparison, concept: their names.
        unit: unit of the contrast that selects.
        eps: visual energy above which a feature counts as visual.
        sizes: features ablated together.
        random_draws: random sets of each size.
        bootstrap: resamples of the paired bootstrap.
        seed: seed of the job.
    """
    given = by_rule(decisions(tables, unit, eps))
    arms = selection_arms(given, sizes)
    rows: list[dict[str, Any]] = []
    if not arms:
        log.warning("%s, concept '%s': the contrast selects nothing to ablate", comparison, concept)
    else:
        rates = read_table(tables["adapted"], ADAPTED, [*FEATURE, "visual_rate"])
        avoided = keys(given["contrast"])
        matched = MatchedFeatures(rates, avoided, avoided)
        arms += random_arms(arms, matched, random_draws, seed)
        subject = model.load()
        features = sorted({feature for arm in arms for feature in arm.features})
        directions = unit_directions(dictionary_folders(dictionaries, layers), features)
        rows = list(
            ablate_arms(subject, questions.evaluations(subject), directions, arms, SCOPE, bootstrap, seed)
        )
    table = table_of(rows, [*(name for name in SELECTION.names if name in KEPT), "arm"])
    counts = {rule: len(part) for rule, part in given.items()}
    table = table.rename(columns={"arm": "rule"})
    table["available"] = table["rule"].map(counts).fillna(0).astype("int64")
    write_table(table.assign(comparison=comparison, concept=concept), SELECTION, output)


KEPT = frozenset(SELECTION.names) - {"comparison", "concept", "rule", "available"}

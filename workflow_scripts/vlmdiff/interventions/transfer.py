"""Ablate the same directions at other stages of the training (docs/understand/method.md section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vlmdiff.interventions.ablation_arms import ablate, pool_arms, selected_arms
from vlmdiff.interventions.inputs import (
    ModelFiles,
    QuestionSets,
    dictionary_folders,
    ranked_features,
    ranked_pools,
    table_of,
)
from vlmdiff.tables.causal import TRANSFER
from vlmdiff.tables.io import write_table

SCOPE = "all_layers"


def transfer_ratios(table: pd.DataFrame) -> pd.Series:
    """Return each margin change divided by that of the same features in the last model."""
    last = table[table["order"] == table["order"].max()]
    keys = ["arm", "size", "draw", "dataset", "group"]
    known = last.set_index(keys)["delta_margin"]
    reference = known.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    return table["delta_margin"] / pd.Series(reference, index=table.index).where(lambda value: value != 0)


def evaluate_transfer(
    models: Sequence[ModelFiles],
    questions: QuestionSets,
    dictionaries: Sequence[str],
    tables: Mapping[str, str],
    output: str,
    *,
    layers: Sequence[int],
    concept: str,
    features: int,
    bootstrap: int,
    massive_ratio: float,
    seed: int,
) -> None:
    """Ablate the best features, one by one and together, in every model and write the table TRANSFER.

    Args:
        models: the models in order of time, the one under study last.
        questions: test data.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        tables: paths of `ranking` and `pools`, the rankings of final and of random features.
        output: where to write it.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        features: how many of the best features.
        bootstrap: resamples of the paired bootstrap.
        massive_ratio: see `feature_activity`.
        seed: seed of the job.
    """
    ranked = ranked_features(tables["ranking"], features)
    rows: list[dict[str, Any]] = []
    if ranked:
        sizes = [len(ranked)] if len(ranked) > 1 else []
        pools = ranked_pools(tables["pools"], len(ranked))
        # Random sets are held against the whole set; single random features would only cost time.
        random = [arm for arm in pool_arms(pools, sizes) if arm.size == len(ranked)]
        arms, folders = (
            [*selected_arms(ranked, len(ranked), sizes), *random],
            dictionary_folders(dictionaries, layers),
        )
        for order, model in enumerate(models):
            effects = ablate(model, questions, folders, arms, SCOPE, bootstrap, massive_ratio, seed)
            rows += [{"model": model.name, "order": order, **row} for row in effects]
    names = [name for name in TRANSFER.names if name not in ("concept", "transfer_margin")]
    table = table_of([{name: row[name] for name in names} for row in rows], names)
    table["transfer_margin"] = transfer_ratios(table) if len(table) else pd.Series(dtype=float)
    write_table(table.assign(concept=concept), TRANSFER, output)

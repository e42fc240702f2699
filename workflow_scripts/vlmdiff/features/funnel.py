"""The features that pass every filter, and how many each filter leaves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vlmdiff.features.candidates import FEATURE
from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES, FUNNEL, LEXICAL
from vlmdiff.tables.io import read_table, write_table

STAGES = ("all", "visual", "adapted", "contrast", "adapted_and_contrast", "final")
ALL_LAYERS = -1


def merge_decisions(
    adapted: pd.DataFrame, contrast: pd.DataFrame, lexical: pd.DataFrame, unit: str, eps: float
) -> pd.DataFrame:
    """Put all decisions side by side, one row a feature: one boolean column a stage of `STAGES`."""
    chosen = contrast[contrast["unit"] == unit].set_index(FEATURE)
    sampled = contrast[contrast["unit"] == "sample"].set_index(FEATURE)
    index = pd.MultiIndex.from_frame(adapted[FEATURE])
    frame = adapted.set_index(index)
    for name in ("odds_ratio", "freq_target", "freq_difference", "log_p_adjusted"):
        frame[name] = chosen[name].reindex(index)
    for name in ("odds_ratio", "log_p_adjusted"):
        frame[f"sample_{name}"] = sampled[name].reindex(index)
    judged = lexical.set_index(FEATURE)
    frame["activation_neutral"] = judged["activation_neutral"].reindex(index)
    frame["all"] = True
    frame["visual"] = frame["visual_energy"] > eps
    frame["contrast"] = index.isin(chosen.index[chosen["selected"]])
    frame["adapted_and_contrast"] = frame["adapted"] & frame["contrast"]
    frame["final"] = frame["adapted_and_contrast"] & index.isin(judged.index[judged["invariant"]])
    return frame.reset_index(drop=True)


def count_stages(decisions: pd.DataFrame) -> pd.DataFrame:
    """Count the features of each stage, by layer and (layer -1) over all: layer, stage, features."""
    stages = list(STAGES)
    by_layer = decisions.groupby("layer")[stages].sum()
    by_layer.loc[ALL_LAYERS] = decisions[stages].sum()
    counts = by_layer.sort_index().rename_axis(index="layer", columns="stage").stack()
    return counts.rename("features").astype("int64").reset_index()


def final_features(decisions: pd.DataFrame) -> pd.DataFrame:
    """Return the features that pass everything, strongest contrast (least p) first."""
    final = decisions[decisions["final"]].sort_values(
        ["log_p_adjusted", "freq_difference", *FEATURE], ascending=[True, False, True, True]
    )
    names = "L" + final["layer"].astype(str) + "F" + final["feature"].astype(str)
    known = [name for name in FINAL_FEATURES.names if name in final.columns]
    return final[known].assign(name=names)


def select_features(
    concept: str,
    seed: int,
    unit: str,
    eps: float,
    tables: tuple[str | Path, str | Path, str | Path],
    outputs: tuple[str | Path, str | Path],
) -> None:
    """Write the funnel and the final features of one concept.

    Args:
        concept: its name.
        seed: index of the seed.
        unit: unit of the contrast that selects, token or sample.
        eps: visual energy above which a feature counts as visual.
        tables: paths of ADAPTED, CONTRAST and LEXICAL.
        outputs: paths of the tables FUNNEL and FINAL_FEATURES.
    """
    frames = [read_table(path, schema) for path, schema in zip(tables, (ADAPTED, CONTRAST, LEXICAL))]
    decisions = merge_decisions(*frames, unit, eps)
    funnel_file, final_file = outputs
    write_table(count_stages(decisions).assign(concept=concept, seed=seed), FUNNEL, funnel_file)
    final = final_features(decisions).assign(concept=concept, seed=seed)
    write_table(final, FINAL_FEATURES, final_file)

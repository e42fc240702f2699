"""The features that pass every filter, and how many each filter leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.features.candidates import FEATURE
from vlmdiff.tables.features import ADAPTED, CONTRAST, CONTRAST_CHECK, FINAL_FEATURES, FUNNEL, LEXICAL
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
    for name in (
        "level",
        "value",
        "effect_size",
        "odds_ratio",
        "freq_target",
        "freq_difference",
        "log_p_adjusted",
        "log_p_clustered_adjusted",
    ):
        frame[name] = chosen[name].reindex(index)
    frame["selected_clustered"] = index.isin(chosen.index[chosen["selected_clustered"]])
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
    """Count the features of each stage, by layer and (layer -1) over all, and those not calibrated."""
    whole = count_true(decisions, "features")
    apart = decisions[list(STAGES)].mul(~decisions["calibrated"], axis=0).assign(layer=decisions["layer"])
    return whole.merge(count_true(apart, "uncalibrated"), on=["layer", "stage"], validate="one_to_one")


def count_true(decisions: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return layer, stage and, under a name, how many features are in the stage."""
    stages = list(STAGES)
    by_layer = decisions.groupby("layer")[stages].sum()
    by_layer.loc[ALL_LAYERS] = decisions[stages].sum()
    counts = by_layer.sort_index().rename_axis(index="layer", columns="stage").stack()
    return counts.rename(name).astype("int64").reset_index()


def final_features(decisions: pd.DataFrame) -> pd.DataFrame:
    """Return the features that pass everything, strongest contrast (least p) first."""
    final = decisions[decisions["final"]].sort_values(
        ["log_p_adjusted", "freq_difference", *FEATURE], ascending=[True, False, True, True]
    )
    names = "L" + final["layer"].astype(str) + "F" + final["feature"].astype(str)
    known = [name for name in FINAL_FEATURES.names if name in final.columns]
    return final[known].assign(name=names)


def check_contrast(contrast: pd.DataFrame, final: pd.DataFrame, fdr: float) -> pd.DataFrame:
    """Count, for each unit, what the contrast selects by either test (contract CONTRAST_CHECK).

    Args:
        contrast: CONTRAST.
        final: layer and feature of the final features.
        fdr: largest adjusted p.
    """
    kept = pd.MultiIndex.from_frame(final[FEATURE])
    rows = []
    for unit, part in contrast.groupby("unit", sort=False):
        chosen = part[part["selected"]]
        is_final = part.set_index(FEATURE).index.isin(kept)
        overstated = (chosen["log_p_clustered"] - chosen["log_p"]) / np.log(10)
        rows.append(
            {
                "unit": unit,
                "tested": len(part),
                "selected": len(chosen),
                "selected_clustered": int(part["selected_clustered"].sum()),
                "significant": int((part["log_p_adjusted"] <= np.log(fdr)).sum()),
                "significant_clustered": int((part["log_p_clustered_adjusted"] <= np.log(fdr)).sum()),
                "final": int(is_final.sum()),
                "final_clustered": int((is_final & part["selected_clustered"]).sum()),
                "median_design_effect": chosen["design_effect"].median(),
                "median_log10_overstatement": overstated.median(),
            }
        )
    return pd.DataFrame(
        rows, columns=[name for name in CONTRAST_CHECK.names if name not in ("concept", "seed")]
    )


def select_features(
    concept: str,
    seed: int,
    unit: str,
    eps: float,
    fdr: float,
    tables: tuple[str | Path, str | Path, str | Path],
    outputs: tuple[str | Path, str | Path, str | Path],
) -> None:
    """Write the funnel and the final features of one concept.

    Args:
        concept: its name.
        seed: index of the seed.
        unit: unit of the contrast that selects, token or sample.
        eps: visual energy above which a feature counts as visual.
        fdr: largest adjusted p of the contrast.
        tables: paths of ADAPTED, CONTRAST and LEXICAL.
        outputs: paths of the tables FUNNEL, FINAL_FEATURES and CONTRAST_CHECK.
    """
    frames = [read_table(path, schema) for path, schema in zip(tables, (ADAPTED, CONTRAST, LEXICAL))]
    decisions = merge_decisions(*frames, unit, eps)
    funnel_file, final_file, check_file = outputs
    write_table(count_stages(decisions).assign(concept=concept, seed=seed), FUNNEL, funnel_file)
    final = final_features(decisions).assign(concept=concept, seed=seed)
    write_table(final, FINAL_FEATURES, final_file)
    check = check_contrast(frames[1], final, fdr).assign(concept=concept, seed=seed)
    write_table(check, CONTRAST_CHECK, check_file)

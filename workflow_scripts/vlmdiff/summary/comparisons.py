"""One table over all comparisons of a target: what each finds, and what ablating it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.features.recurrence import nearest, rows_at
from vlmdiff.tables.causal import SELECTION
from vlmdiff.tables.features import COMPARISONS, CONTRAST_CHECK, FINAL_FEATURES, FUNNEL, THRESHOLDS
from vlmdiff.tables.io import read_table, write_table

FEATURE = ["layer", "feature"]
# Columns of COMPARISONS for each column of EFFECT.
TARGET_EFFECT = {
    "delta_accuracy": "target_accuracy",
    "delta_low": "target_low",
    "delta_high": "target_high",
    "delta_margin": "target_margin",
    "margin_low": "target_margin_low",
    "margin_high": "target_margin_high",
}
CONTROL_EFFECT = {
    "delta_accuracy": "control_accuracy",
    "delta_low": "control_low",
    "delta_high": "control_high",
    "delta_margin": "control_margin",
}


@dataclass(frozen=True)
class ComparisonFiles:
    """What is read of one comparison, seed and concept.

    Attributes:
        comparison, about: its name and what is different.
        rule: its own rule of adapted features.
        base: name of its base dictionary; comparisons of one base share their indices.
        seed: index of the seed.
        unit: unit of the contrast that selects.
        tables: paths of `thresholds`, `funnel`, `check`, `final`, and `selection` if features were ablated.
        dictionaries: folder of its adapted dictionary at each layer.
        untuned: its model was never tuned.
    """

    comparison: str
    about: str
    rule: str
    base: str
    seed: int
    unit: str
    tables: Mapping[str, str]
    dictionaries: Mapping[int, Path]
    untuned: bool = False

    def final(self) -> pd.DataFrame:
        """Return layer and feature of its final features."""
        return read_table(self.tables["final"], FINAL_FEATURES, FEATURE)


def counts(files: ComparisonFiles) -> dict[str, Any]:
    """Return how many features pass each filter."""
    thresholds = read_table(files.tables["thresholds"], THRESHOLDS)
    thresholds = thresholds[thresholds["layer"] < 0].set_index("rule")
    funnel = read_table(files.tables["funnel"], FUNNEL)
    whole = funnel[funnel["layer"] < 0].set_index("stage")
    stages = whole["features"]
    check = read_table(files.tables["check"], CONTRAST_CHECK).set_index("unit")
    return {
        "visual": stages["visual"],
        "adapted_percentile": thresholds.loc["percentile", "adapted"],
        "adapted_calibrated": thresholds.loc["calibrated", "adapted"],
        "adapted": stages["adapted"],
        "null_rate": thresholds.loc[files.rule, "null_false_positive_rate"],
        "contrast": stages["contrast"],
        "final": stages["final"],
        "final_uncalibrated": whole.loc["final", "uncalibrated"],
        "final_clustered": check["final_clustered"].get(files.unit, 0),
    }


def jaccard(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return the overlap of two sets of features; NaN if both are empty."""
    one, two = (set(map(tuple, frame[FEATURE].to_numpy())) for frame in (first, second))
    return len(one & two) / len(one | two) if one | two else float("nan")


def matched_share(files: ComparisonFiles, main: ComparisonFiles) -> float:
    """Return the share of final features whose nearest decoder row in main is final there."""
    final, theirs, hits = files.final(), main.final(), 0
    for layer, part in final.groupby("layer"):
        index, _ = nearest(rows_at(files.dictionaries[layer], part["feature"]), main.dictionaries[layer])
        hits += int(np.isin(index, theirs.loc[theirs["layer"] == layer, "feature"]).sum())
    return hits / len(final) if len(final) else float("nan")


def effects(files: ComparisonFiles, data: Sequence[str]) -> dict[str, float]:
    """Return the effect of ablating the first final features, on target and control.

    NaN without any, or if nothing was ablated.
    """
    if "selection" not in files.tables:
        columns = (*TARGET_EFFECT.values(), *CONTROL_EFFECT.values(), "random_margin")
        return {"size": 0, **dict.fromkeys(columns, float("nan"))}
    table = read_table(files.tables["selection"], SELECTION)
    table = table[table["group"] == "all"]
    full = table[(table["rule"] == "full") & (table["draw"] == 0)]
    size = int(full["size"].max()) if len(full) else 0
    found: dict[str, float] = {"size": size}
    for dataset, columns in zip(data, (TARGET_EFFECT, CONTROL_EFFECT)):
        row = full[(full["size"] == size) & (full["dataset"] == dataset)]
        found |= {
            column: float(row[name].iloc[0]) if len(row) else float("nan") for name, column in columns.items()
        }
    random = table[table["rule"].eq("random") & table["size"].eq(size) & table["dataset"].eq(data[0])]
    return found | {"random_margin": float(random["delta_margin"].mean())}


def summarise_comparisons(
    found: Sequence[ComparisonFiles], concept: str, data: Sequence[str], output: str | Path
) -> None:
    """Write the table COMPARISONS.

    Args:
        found: the main comparison first; for every further one main's files of the same seed come before.
        concept: name of the concept.
        data: names of target and control test data; none if nothing was ablated.
        output: path of the table.
    """
    main = {files.seed: files for files in found if files.comparison == "main"}
    rows = []
    for files in found:
        reference = main[files.seed]
        aligned = files.base == reference.base
        rows.append(
            {
                "comparison": files.comparison,
                "about": files.about,
                "seed": files.seed,
                "concept": concept,
                "untuned": files.untuned,
                **counts(files),
                "jaccard": jaccard(files.final(), reference.final()) if aligned else float("nan"),
                "matched": matched_share(files, reference),
                **effects(files, data),
            }
        )
    write_table(pd.DataFrame(rows), COMPARISONS, output)

"""What a feature must pass to be final, and what each step asks of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.tables.features import THRESHOLDS
from vlmdiff.tables.io import read_table

# Flags in the order in which features drop out, whether each is asked of those alone that passed so far, and
# the numbers that may decide it.
STEPS = (
    ("adapted", "adapted", False, ("similarity", "visual_energy")),
    (
        "{}.contrast",
        "contrast",
        False,
        ("{}.effect", "{}.odds", "{}.difference", "{}.frequency", "{}.log_p"),
    ),
    ("{}.invariant", "invariant", True, ("{}.pairs", "{}.samples")),
    ("{}.final", "final", True, ()),
)
# How a number is held against its limit, if it is not "at least".
ASKED = {"similarity": "≤", "log_p": "≤", "visual_energy": ">"}
ALL_LAYERS = -1


def rotation_limits(thresholds: str, rule: str) -> dict[str, float]:
    """Return the limits of the rule by which features count as adapted, by the key of their column.

    Args:
        thresholds: path of THRESHOLDS.
        rule: the rule of the config.
    """
    table = read_table(thresholds, THRESHOLDS)
    row = table[(table["rule"] == rule) & (table["layer"] == ALL_LAYERS)].iloc[0]
    return {"similarity": float(row["tau"]), "visual_energy": float(row["eps"])}


def funnel_steps(
    concept: str, columns: Mapping[str, pd.Series], limits: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return what a concept's features must pass, and how many are left after each step.

    Args:
        concept: its name.
        columns: values of all columns, by key.
        limits: smallest or largest value of each column that decides, by key.
    """
    left, steps = np.ones(len(next(iter(columns.values()))), dtype=bool), []
    for pattern, title, asks, numbers in STEPS:
        key = pattern.format(concept)
        left &= columns[key].to_numpy(bool)
        by = [
            {"key": one, "asked": ASKED.get(one.split(".")[-1], "≥"), "limit": limits[one]}
            for one in (name.format(concept) for name in numbers)
            if np.isfinite(limits.get(one, np.nan))
        ]
        steps.append({"key": key, "title": title, "asks": asks, "by": by, "left": int(left.sum())})
    return steps

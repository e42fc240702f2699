"""What a feature must pass to be final, and what each step asks of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.explorer.pack import rounded
from vlmdiff.tables.features import THRESHOLDS
from vlmdiff.tables.io import read_table


@dataclass(frozen=True)
class Step:
    """One step of the funnel.

    Attributes:
        key: of the flag that says who passes; `{}` stands for the concept.
        title: its name.
        asks: whether it is asked of those alone that passed so far.
        numbers: keys of the numbers that decide, where they have limits.
        silent: what is said where none of them was measured.
        absent: what is said of those who pass where none of the numbers decides; empty: nothing.
        hint: what it means, in words.
        doubt: key of a flag, and what is said of those who pass without it.
    """

    key: str
    title: str
    asks: bool
    numbers: tuple[str, ...] = ()
    silent: str = "not measured"
    absent: str = ""
    hint: str = ""
    doubt: tuple[str, str] | None = None


CONTRAST = ("{}.effect", "{}.odds", "{}.difference", "{}.frequency", "{}.log_p")
# In the order in which features drop out.
STEPS = (
    Step(
        "adapted",
        "adapted",
        False,
        ("similarity", "visual_energy"),
        hint="turned in tuning further than the null's features do, and fires where there is an image",
        doubt=("calibrated", "no reference: never fired by the null's text"),
    ),
    Step(
        "{}.contrast",
        "contrast",
        False,
        CONTRAST,
        "fires on none of the compared samples",
        hint="fires more where the concept is shown than elsewhere",
    ),
    Step(
        "{}.invariant",
        "invariant",
        True,
        ("{}.pairs", "{}.samples"),
        absent="no filter",
        hint="fires on enough pictures with a neutral prompt as well",
    ),
    Step("{}.final", "final", True, hint="passed every step"),
)
AT_MOST, AT_LEAST, ABOVE = "≤", "≥", ">"
HOLDS = MappingProxyType({AT_MOST: np.less_equal, AT_LEAST: np.greater_equal, ABOVE: np.greater})
# How a number is held against its limit, if it is not at least that.
SIGNS = MappingProxyType({"similarity": AT_MOST, "log_p": AT_MOST, "visual_energy": ABOVE})
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


def held_against(key: str, values: np.ndarray, limit: float) -> dict[str, Any]:
    """Return how the page holds a column against its limit.

    The page keeps rounded numbers; the rows are listed on which they would decide otherwise.

    Args:
        key: of the column.
        values: of all features.
        limit: what is asked; NaN where nothing sets one, so that no feature can reach it.

    Returns:
        key, sign, limit (None: no number reaches it), its text, and these rows.
    """
    sign = SIGNS.get(key.split(".")[-1], AT_LEAST)
    # A logarithm of a p is no number that somebody wrote.
    written = f"{limit:.4g}" if key.endswith("log_p") else f"{limit:.6g}"
    text = "unknown" if np.isnan(limit) else written.replace("-", "−").replace("inf", "∞")
    told = {"key": key, "sign": sign, "text": text}
    if not np.isfinite(limit):
        return {**told, "limit": None, "except": []}
    kept = rounded(np.append(values, limit))
    holds = HOLDS[sign]
    otherwise = holds(values, limit) != holds(kept[:-1], kept[-1])
    return {**told, "limit": float(kept[-1]), "except": np.flatnonzero(otherwise).tolist()}


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
    for step in STEPS:
        key = step.key.format(concept)
        left &= columns[key].to_numpy(bool)
        names = [name.format(concept) for name in step.numbers]
        by = [
            held_against(name, columns[name].to_numpy(float), limits[name])
            for name in names
            if name in limits
        ]
        told = {"key": key, "title": step.title, "asks": step.asks, "by": by, "left": int(left.sum())}
        doubt = dict(zip(("key", "text"), step.doubt)) if step.doubt else None
        steps.append(
            {
                **told,
                "silent": step.silent,
                "absent": "" if by else step.absent,
                "hint": step.hint,
                "doubt": doubt,
            }
        )
    return steps

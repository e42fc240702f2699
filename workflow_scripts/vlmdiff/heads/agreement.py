"""How well attribution patching agrees with exact patching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.heads.aggregate import FEATURE

# Methods A and B are sizes of an effect, the signed estimate is an effect with its direction.
REFERENCE: Mapping[str, str] = MappingProxyType(
    {"method_a": "exact_abs", "method_b": "exact_abs", "signed": "exact"}
)
POOLED = "pooled"


def correlation(estimate: np.ndarray, exact: np.ndarray, ranks: bool) -> float:
    """Return Pearson's (or with `ranks` Spearman's) correlation; NaN if it is not defined."""
    if ranks:
        estimate, exact = (pd.Series(values).rank().to_numpy() for values in (estimate, exact))
    if len(estimate) < 3 or np.ptp(estimate) == 0 or np.ptp(exact) == 0:
        return float("nan")
    return float(np.corrcoef(estimate, exact)[0, 1])


def normalised(frame: pd.DataFrame, column: str) -> pd.Series:
    """Divide by the sum of absolute values within each feature, so that features can be pooled."""
    total = frame[column].abs().groupby([frame[name] for name in FEATURE]).transform("sum")
    return (frame[column] / total.where(total > 0)).fillna(0.0)


def compare(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield one row a method for the heads of one frame."""
    for method, reference in REFERENCE.items():
        estimate, exact = frame[method].to_numpy(), frame[reference].to_numpy()
        yield {
            "method": method,
            "reference": reference,
            "heads": len(frame),
            "spearman": correlation(estimate, exact, ranks=True),
            "pearson": correlation(estimate, exact, ranks=False),
        }


def agreement(attribution: pd.DataFrame, patching: pd.DataFrame) -> list[dict[str, Any]]:
    """Correlate estimates with exact effects over heads, for each feature and pooled over features.

    Returns:
        Rows of HEAD_AGREEMENT, the concept aside; feature_layer and feature are -1 when pooled.
    """
    columns = [*FEATURE, "name", "layer", "head"]
    both = attribution.drop(columns="concept").merge(
        patching.drop(columns="concept"), on=columns, how="inner", validate="one_to_one"
    )
    rows = []
    for (layer, feature, name), frame in both.groupby([*FEATURE, "name"], sort=True):
        rows += [{"feature_layer": layer, "feature": feature, "name": name, **row} for row in compare(frame)]
    if len(both):
        scaled = both.assign(**{name: normalised(both, name) for name in {*REFERENCE, *REFERENCE.values()}})
        rows += [{"feature_layer": -1, "feature": -1, "name": POOLED, **row} for row in compare(scaled)]
    return rows

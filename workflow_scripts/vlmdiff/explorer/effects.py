"""What ablating and steering one feature does, as numbers to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd

from vlmdiff.explorer.facts import ByFeature
from vlmdiff.figures.values import read_some
from vlmdiff.tables.causal import ABLATION, STEERING
from vlmdiff.tables.feature_names import feature_name, feature_place

SELECTED, RANDOM, WHOLE = "selected", "random", "all"
INTERVAL = ["delta_margin", "margin_low", "margin_high"]
# Digits of effects: more cannot be seen.
DIGITS = 4


@dataclass(frozen=True)
class EffectTables:
    """Paths of the tables.

    Attributes:
        ablation: ABLATION of each ablated concept, in the scope of the headline.
        steering: STEERING of each steered concept.
    """

    ablation: Sequence[str] = ()
    steering: Sequence[str] = ()


def short(*values: float) -> list[float | None]:
    """Return numbers in a few digits; None for those that are none."""
    return [float(f"{value:.{DIGITS}g}") if isfinite(value) else None for value in values]


class Effects:
    """What interventions on single features do.

    Args:
        tables: where they are told.
    """

    def __init__(self, tables: EffectTables) -> None:
        ablation = read_some(tables.ablation, ABLATION)
        single = ablation[ablation["size"] == 1]
        self.ablated = dict(list(single[single["arm"] == SELECTED].groupby("features")))
        self.pools = single[(single["arm"] == RANDOM) & (single["group"] == WHOLE)]
        steering = read_some(tables.steering, STEERING)
        self.steered = ByFeature(steering[(steering["arm"] == "feature") & (steering["group"] == WHOLE)])

    def known(self) -> set[tuple[int, int]]:
        """Return the features that were ablated alone or steered by."""
        return {*map(feature_place, self.ablated), *self.steered.rows}

    def of(self, key: tuple[int, int]) -> list[dict[str, Any]]:
        """Return what is to be drawn of a feature, given by layer and index.

        Each has a title and an `axis`; an ablation `rows` of name, value and the ends of its interval, with
        the effects `chance` of random pools on the first of them, and what `pools` hold; a steering `lines`
        of name and points of strength, value and the ends of its interval.
        """
        return [*self.ablations(feature_name(key)), *self.steerings(key)]

    def ablations(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the effects of ablating it alone on each data set and group, by concept."""
        for concept, rows in self.ablated.get(name, pd.DataFrame({"concept": []})).groupby("concept"):
            datasets = list(dict.fromkeys(rows["dataset"]))
            own = self.pools[(self.pools["concept"] == concept) & (self.pools["dataset"] == datasets[0])]
            itself = int((own["features"] == name).sum())
            yield {
                "title": f"Ablated alone, as a feature of {concept}",
                "axis": "change of the answer's margin, logits",
                "chance": [one for one in short(*own["delta_margin"].sort_values()) if one is not None],
                "pools": f"In {itself} of the pools the best is this feature itself." if itself else "",
                "rows": [
                    [told(row.dataset, row.group), *short(*(getattr(row, one) for one in INTERVAL))]
                    for row in rows.itertuples()
                ],
            }

    def steerings(self, key: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """Yield the effects of adding its direction on each data set, by concept."""
        for concept, rows in self.steered[key].groupby("concept"):
            yield {
                "title": f"Steered by it ({concept})",
                "axis": "change of accuracy, by strength in mean residual norms",
                "lines": [
                    {"name": dataset, "points": points(part)}
                    for dataset, part in rows.groupby("dataset", sort=False)
                ],
            }


def points(rows: pd.DataFrame) -> list[list[float | None]]:
    """Return strength, change of accuracy and the ends of its interval, by strength."""
    names = ("strength", "delta_accuracy", "delta_low", "delta_high")
    return [short(*values) for values in zip(*(rows.sort_values("strength")[name] for name in names))]


def told(dataset: str, group: str) -> str:
    """Return what a row is called."""
    return dataset if group == WHOLE else f"{dataset}, {group}"

"""Random features that match selected ones on the tested questions: the control of every ablation."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

Feature = tuple[int, int]
FEATURE = ["layer", "feature"]
# A control is drawn among so many nearest features.
NEIGHBOURS = 10
# So many times as many possible controls as candidates, or pools would all hold the same features.
ROOM = 2
log = logging.getLogger(__name__)


def keys(frame: pd.DataFrame) -> list[Feature]:
    """Return the (layer, feature) pairs of a feature table."""
    return list(zip(frame["layer"].astype(int), frame["feature"].astype(int)))


def among(frame: pd.DataFrame, features: Collection[Feature]) -> np.ndarray:
    """Mark the rows of a feature table that are among some features."""
    place = pd.MultiIndex.from_frame(frame[FEATURE])
    return place.isin(list(features)) if features else np.zeros(len(frame), dtype=bool)


def coordinates(activity: pd.DataFrame) -> np.ndarray:
    """Return where features stand in rate and energy: logarithms, each in standard deviations of its layer.

    Silent features stand half of the smallest positive value of their layer.

    Args:
        activity: columns layer, rate, energy.

    Returns:
        `(features, 2)`.
    """
    columns = []
    for name in ("rate", "energy"):
        floor = activity[name].where(activity[name] > 0).groupby(activity["layer"]).transform("min")
        values = np.log(activity[name].where(activity[name] > 0, floor.fillna(1.0) / 2))
        by_layer = values.groupby(activity["layer"])
        spread = by_layer.transform("std").fillna(0.0)
        columns.append((values - by_layer.transform("mean")) / spread.where(spread > 0, 1.0))
    return np.stack(columns, axis=1)


class MatchedFeatures:
    """Draws random features of the same layer with nearly the same firing rate and energy."""

    def __init__(
        self, activity: pd.DataFrame, avoided: Collection[Feature], neighbours: int = NEIGHBOURS
    ) -> None:
        """Collect the features that may serve as controls: those that fire and are not to be avoided.

        Args:
            activity: columns layer, feature, rate, energy: what every feature does on the questions.
            avoided: features that are no controls: those of the concept, as its contrast tells, adapted
                or not. They encode it too, and would make controls look causal.
            neighbours: a control is drawn among this many nearest.
        """
        frame = activity.sort_values(FEATURE, ignore_index=True)
        self.neighbours, self.feature = neighbours, frame["feature"].to_numpy()
        self.row = {feature: row for row, feature in enumerate(keys(frame))}
        self.at = coordinates(frame)
        possible = frame[(frame["rate"] > 0) & ~among(frame, avoided)]
        self.controls = {int(layer): part.index.to_numpy() for layer, part in possible.groupby("layer")}

    def possible(self, layer: int) -> np.ndarray:
        """Return the rows of a layer's features that may serve as controls, by rising index."""
        return self.controls.get(layer, np.zeros(0, dtype=np.int64))

    def testable(self, candidates: Sequence[Feature]) -> list[Feature]:
        """Return those candidates, in their order, for which each layer has room for different pools.

        A layer with too few possible controls keeps its first candidates.
        """
        kept: list[Feature] = []
        for layer, index in candidates:
            used = sum(own == layer for own, _ in kept)
            if ROOM * (used + 1) <= len(self.possible(layer)):
                kept.append((layer, index))
        if dropped := len(candidates) - len(kept):
            log.warning(
                "%d of %d candidates are left out: their layers have fewer than %d possible controls "
                "(firing, not of the concept) for each candidate, so random pools would all be the same",
                dropped, len(candidates), ROOM,
            )  # fmt: skip
        return kept

    def draw(self, selected: Sequence[Feature], generator: np.random.Generator) -> list[Feature]:
        """Draw one control for each selected feature, all different, in the same layers and order.

        Features are served in random order, so that none always gets what the others left.
        """
        drawn: list[Feature] = [(0, 0)] * len(selected)
        free = {layer: np.ones(len(self.possible(layer)), dtype=bool) for layer, _ in selected}
        for turn in generator.permutation(len(selected)):
            layer = selected[turn][0]
            left = np.flatnonzero(free[layer])
            rows = self.possible(layer)[left]
            distance = np.linalg.norm(self.at[rows] - self.at[self.row[selected[turn]]], axis=1)
            nearest = np.argsort(distance, kind="stable")[: self.neighbours]
            chosen = nearest[generator.integers(len(nearest))]
            free[layer][left[chosen]] = False
            drawn[turn] = (layer, int(self.feature[rows[chosen]]))
        return drawn


def pools(
    matched: MatchedFeatures, candidates: Sequence[Feature], count: int, generator: np.random.Generator
) -> list[list[Feature]]:
    """Draw matched random pools, each as large as the candidates."""
    return [matched.draw(candidates, generator) for _ in range(count)]

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
# At least so many controls stand beside each candidate, and at most so many: more cost time and match worse.
FEWEST, MOST = 2, 20
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
        """Return those candidates, in their order, for which each layer has controls enough."""
        kept: list[Feature] = []
        for layer, index in candidates:
            used = sum(own == layer for own, _ in kept)
            if FEWEST * (used + 1) <= len(self.possible(layer)):
                kept.append((layer, index))
        if dropped := len(candidates) - len(kept):
            log.warning(
                "%d of %d candidates are left out: their layers have fewer than %d possible controls "
                "(firing, not of the concept) for each candidate",
                dropped, len(candidates), FEWEST,
            )  # fmt: skip
        return kept

    def strata(self, candidates: Sequence[Feature], generator: np.random.Generator) -> list[list[Feature]]:
        """Return each candidate with its own matched controls, the candidate first.

        All controls are different. A layer has as many for each candidate as there are, up to `MOST`; they
        are dealt out in rounds, each candidate taking the nearest that is left, in random order.
        """
        strata = [[feature] for feature in candidates]
        free = {layer: list(self.possible(layer)) for layer, _ in candidates}
        members = {layer: [i for i, one in enumerate(candidates) if one[0] == layer] for layer in free}
        for layer, own in members.items():
            for _ in range(min(MOST, len(free[layer]) // len(own))):
                for i in generator.permutation(own):
                    distance = np.linalg.norm(self.at[free[layer]] - self.at[self.row[candidates[i]]], axis=1)
                    row = free[layer].pop(int(distance.argmin()))
                    strata[i].append((layer, int(self.feature[row])))
        return strata

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
    strata: Sequence[Sequence[Feature]], count: int, generator: np.random.Generator
) -> list[list[Feature]]:
    """Draw pools that take one feature of each stratum, candidate or control alike.

    If candidates are no different from what they match, their set is one more such pool, so that a test that
    counts pools is exact, however few controls there are (a randomisation test within matched sets;
    Rosenbaum, "Observational Studies", 2002, chapter 3). Pools without any candidate would not be: of a few
    controls all pools would have the same best ones.
    """
    return [[one[generator.integers(len(one))] for one in strata] for _ in range(count)]

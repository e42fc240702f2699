"""Random features that match selected ones in layer and firing rate: the control of every ablation."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

Feature = tuple[int, int]
NEIGHBOURS = 50
log = logging.getLogger(__name__)


class MatchingError(ValueError):
    """There are too few features to draw a matched set from."""


def keys(frame: pd.DataFrame) -> list[Feature]:
    """Return the (layer, feature) pairs of a feature table."""
    return list(zip(frame["layer"].astype(int), frame["feature"].astype(int)))


class Pool(NamedTuple):
    """Features of one layer, by rising index, and their firing rates."""

    feature: np.ndarray
    rate: np.ndarray


NO_FEATURES = Pool(np.zeros(0, np.int64), np.zeros(0))


def among(frame: pd.DataFrame, features: Collection[Feature]) -> np.ndarray:
    """Mark the rows of a feature table that are among some features."""
    place = pd.MultiIndex.from_frame(frame[["layer", "feature"]])
    return place.isin(list(features)) if features else np.zeros(len(frame), dtype=bool)


def by_layer(frame: pd.DataFrame) -> dict[int, Pool]:
    """Return the features of each layer, in the order of the table."""
    return {
        int(layer): Pool(part["feature"].to_numpy(), part["visual_rate"].to_numpy())
        for layer, part in frame.groupby("layer")
    }


class MatchedFeatures:
    """Draws random features of the same layer with nearly the same firing rate."""

    def __init__(
        self,
        rates: pd.DataFrame,
        final: Collection[Feature],
        contrast_selected: Collection[Feature],
        neighbours: int = NEIGHBOURS,
    ) -> None:
        """Collect the features that may serve as controls.

        A control is alive (it fires on text tokens with images), is not a final feature of the
        concept, and was not even selected by the concept's contrast: features that were selected
        but not adapted encode the concept too, and would make the control look causal.

        Args:
            rates: columns layer, feature, visual_rate.
            final: final features of the concept.
            contrast_selected: features that the concept's contrast selected, by any unit.
            neighbours: a control is drawn among this many nearest in firing rate.
        """
        frame = rates.sort_values(["layer", "feature"], ignore_index=True)
        alive = (frame["visual_rate"] > 0) & ~among(frame, final)
        self.neighbours = neighbours
        self.live = by_layer(frame[alive])
        self.unselected = by_layer(frame[alive & ~among(frame, contrast_selected)])
        self.every = by_layer(frame)

    def rate(self, feature: Feature) -> float:
        """Return a feature's firing rate; 0 if the table does not have it."""
        layer, index = feature
        known = self.every.get(layer, NO_FEATURES)
        return float(known.rate[known.feature == index].sum())

    def pool(self, layer: int, needed: int) -> Pool:
        """Return the possible controls of a layer.

        Raises:
            MatchingError: the layer has fewer live features than the set needs.
        """
        for candidates, kind in ((self.unselected, "not selected"), (self.live, "live")):
            found = candidates.get(layer, NO_FEATURES)
            if len(found.feature) >= needed:
                return found
            log.warning("layer %d: %d %s features for %d controls", layer, len(found.feature), kind, needed)
        raise MatchingError(
            f"layer {layer}: a set needs {needed} matched random features, but only {len(found.feature)} "
            "live ones are not final features. Use smaller ablation.set_sizes or a wider dictionary."
        )

    def draw(self, selected: Sequence[Feature], generator: np.random.Generator) -> list[Feature]:
        """Draw one control for each selected feature, all different, in the same layers."""
        needed = {layer: sum(key[0] == layer for key in selected) for layer, _ in selected}
        pools = {layer: self.pool(layer, count) for layer, count in needed.items()}
        drawn: list[Feature] = []
        for layer, index in selected:
            pool, taken = pools[layer], [other for own, other in drawn if own == layer]
            distance = np.abs(pool.rate - self.rate((layer, index)))
            distance[np.isin(pool.feature, taken)] = np.inf
            # Equally near features rank by their index; those that are taken come last.
            nearest = np.lexsort((pool.feature, distance))[: len(distance) - len(taken)][: self.neighbours]
            drawn.append((layer, int(pool.feature[nearest[generator.integers(len(nearest))]])))
        return drawn

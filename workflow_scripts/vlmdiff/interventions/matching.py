"""Random features that match selected ones in layer and firing rate: the control of every ablation."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

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
        rate = {key: float(value) for key, value in zip(keys(rates), rates["visual_rate"])}
        self.rate = rate
        self.neighbours = neighbours
        self.live = sorted(key for key, value in rate.items() if value > 0 and key not in set(final))
        self.unselected = sorted(set(self.live) - set(contrast_selected))

    def pool(self, layer: int, needed: int) -> list[Feature]:
        """Return the possible controls of a layer.

        Raises:
            MatchingError: the layer has fewer live features than the set needs.
        """
        for candidates, kind in ((self.unselected, "not selected"), (self.live, "live")):
            found = [key for key in candidates if key[0] == layer]
            if len(found) >= needed:
                return found
            log.warning("layer %d: %d %s features for %d controls", layer, len(found), kind, needed)
        raise MatchingError(
            f"layer {layer}: a set needs {needed} matched random features, but only {len(found)} live ones "
            "are not final features. Use smaller ablation.set_sizes or a wider dictionary."
        )

    def draw(self, selected: Sequence[Feature], generator: np.random.Generator) -> list[Feature]:
        """Draw one control for each selected feature, all different, in the same layers."""
        needed = {layer: sum(key[0] == layer for key in selected) for layer, _ in selected}
        pools = {layer: self.pool(layer, count) for layer, count in needed.items()}
        drawn: list[Feature] = []
        for feature in selected:
            free = [key for key in pools[feature[0]] if key not in drawn]
            target = self.rate.get(feature, 0.0)
            nearest = sorted(free, key=lambda key: (abs(self.rate[key] - target), key))[: self.neighbours]
            drawn.append(nearest[generator.integers(len(nearest))])
        return drawn

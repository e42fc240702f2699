"""Samples by which a description of a feature is made, and others by which it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vlmdiff.data.identity import shown_by

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample

SHOWN, FIRES, SILENT = "shown", "fires", "silent"
COLUMNS = ["feature", "use", "rank", "sample_id", "activation"]


def label_samples(
    strongest: np.ndarray,
    samples: Sequence[Sample],
    features: np.ndarray,
    layer: int,
    shown: int,
    tested: int,
) -> pd.DataFrame:
    """Choose the samples that are shown of each feature, and others on which a description is tried.

    Shown are the strongest, each picture or text once. Tried are as many others on which it fires, whatever
    their strength, and on which it is silent, drawn at random; none of them shows what a shown one shows.

    Args:
        strongest: (samples, features), largest activation on a text token.
        samples: of these rows.
        features: indices in the dictionary, of the columns.
        layer: of the dictionary.
        shown: how many are shown.
        tested: how many of each kind are tried, at most.

    Returns:
        A frame with the columns COLUMNS.
    """
    pictures = np.unique([shown_by(sample) for sample in samples], return_inverse=True)[1]
    rows = []
    for column, feature in enumerate(features):
        own = strongest[:, column]
        best = first_of_each(np.argsort(-own, kind="stable")[: int((own > 0).sum())], pictures)[:shown]
        generator = np.random.default_rng([layer, int(feature)])
        others = np.flatnonzero(~np.isin(pictures, pictures[best]))
        kinds = {SHOWN: best}
        for kind, there in ((FIRES, own[others] > 0), (SILENT, own[others] == 0)):
            drawn = generator.permutation(others[there])
            kinds[kind] = first_of_each(drawn, pictures)[:tested]
        rows += [
            (int(feature), kind, rank, samples[place].sample_id, float(own[place]))
            for kind, places in kinds.items()
            for rank, place in enumerate(places)
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def first_of_each(places: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return the first place of each picture, in their order."""
    return places[np.sort(np.unique(pictures[places], return_index=True)[1])]

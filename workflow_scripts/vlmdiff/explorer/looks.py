"""Where the head that writes a feature most looks in some pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.explorer.facts import ByFeature, titled
from vlmdiff.explorer.pictures import DIGITS, EDGES, Thumbnails
from vlmdiff.figures.values import read_some
from vlmdiff.tables.causal import HEAD_ATTENTION


@dataclass(frozen=True)
class LookTables:
    """Paths of the tables.

    Attributes:
        attention: HEAD_ATTENTION of each traced concept.
        samples: samples.jsonl of the pictures, or none.
    """

    attention: Sequence[str] = ()
    samples: Sequence[str] = ()


class Looks:
    """Attention of heads over pictures, by feature.

    Args:
        tables: where it is told.
        thumbnails: makes the pictures.
    """

    def __init__(self, tables: LookTables, thumbnails: Thumbnails) -> None:
        self.rows = ByFeature(read_some(tables.attention, HEAD_ATTENTION), "feature_layer")
        self.samples: Mapping[str, Sample] = {
            sample.sample_id: sample for file in tables.samples for sample in load_samples(file)
        }
        self.thumbnails = thumbnails

    def of(self, key: tuple[int, int]) -> list[dict[str, Any]]:
        """Return title and pictures of each head that was traced from a feature, given by layer and index."""
        found = (
            (f"Where {head} looks", concept, [self.look(part) for _, part in rows.groupby("sample_rank")])
            for (concept, head), rows in self.rows[key].groupby(["concept", "head_name"])
        )
        return [{"title": title, "samples": samples} for title, samples in titled(found)]

    def look(self, patches: pd.DataFrame) -> dict[str, Any]:
        """Return one picture with the attention that each patch gets; `patches` is one sample's."""
        sample = self.samples[patches["sample_id"].iloc[0]]
        return {
            "about": f"{sample.sample_id}, from ‘{patches['token'].iloc[0]}’",
            "image": self.thumbnails.of(sample),
            "patches": [[round(edge, DIGITS) for edge in box] for box in boxes(patches)],
            "weights": [float(f"{weight:.{DIGITS}g}") for weight in patches["weight"].fillna(0.0)],
        }


def boxes(patches: pd.DataFrame) -> np.ndarray:
    """Return left, top, right and bottom edge of each patch as fractions of the picture, (patches, 4).

    The edges in the table are those of all patches together.
    """
    whole = patches[list(EDGES)].iloc[0].to_numpy(float)
    counts = patches[["col", "row"]].max().to_numpy(float) + 1
    side = (whole[2:] - whole[:2]) / counts
    corner = whole[:2] + patches[["col", "row"]].to_numpy(float) * side
    return np.concatenate([corner, corner + side], axis=1)

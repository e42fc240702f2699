"""What the page tells of one feature in words: labels, heads, other seeds, neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.figures.values import read_some
from vlmdiff.tables.causal import HEAD_ATTRIBUTION
from vlmdiff.tables.explorer import EXAMPLE_NEIGHBOURS
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.features import RECURRENCE
from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import LABEL_EVIDENCE, LABELS

FEATURE = ["layer", "feature"]
HEADS, EVIDENCE = 3, 3
HEADS_TOLD = (
    "score: the head's mean share of what all heads change; mean image: what this, seen in place of the "
    "picture, adds to the feature through the head (first order)"
)
# What is shown as evidence of a label, and what its number says.
EVIDENT = {"word": "share of its activity", "trait": "more often where it is strong"}
Line = str | dict[str, str]


class ByFeature:
    """The rows of a table by layer and feature.

    Args:
        table: any with both columns.
        layer: what the column of the layer is called.
    """

    def __init__(self, table: pd.DataFrame, layer: str = "layer") -> None:
        self.none = table.head(0)
        self.rows = dict(list(table.groupby([layer, "feature"])))

    def __getitem__(self, key: tuple[int, int]) -> pd.DataFrame:
        return self.rows.get(key, self.none)


def titled(found: Iterable[tuple[str, str, Any]]) -> list[tuple[str, Any]]:
    """Join what several concepts tell alike: return (title, content), with the concepts in the title.

    Args:
        found: title, concept (empty: of none) and content.
    """
    joined: list[tuple[str, list[str], Any]] = []
    for title, concept, content in found:
        same = next((one for one in joined if (one[0], one[2]) == (title, content)), None)
        if same is None:
            joined.append((title, [concept] if concept else [], content))
        else:
            same[1].append(concept)
    return [
        (f"{title} ({', '.join(names)})" if names else title, content) for title, names, content in joined
    ]


@dataclass(frozen=True)
class FactTables:
    """Paths of the tables; those in lists are there once for each concept that has them.

    Attributes:
        labels, evidence: LABELS and LABEL_EVIDENCE.
        recurrence: RECURRENCE.
        attribution: HEAD_ATTRIBUTION.
        neighbours: EXAMPLE_NEIGHBOURS.
        fdr: largest adjusted p of evidence that is told.
    """

    labels: Sequence[str]
    evidence: Sequence[str]
    recurrence: Sequence[str]
    attribution: Sequence[str]
    neighbours: str
    fdr: float


class Facts:
    """What is told of features in words, from tables of all concepts.

    Args:
        tables: where they are.
        seed: of the dictionaries.
    """

    def __init__(self, tables: FactTables, seed: int) -> None:
        self.seed = seed
        self.labels = ByFeature(read_some(tables.labels, LABELS))
        evidence = read_some(tables.evidence, LABEL_EVIDENCE)
        sure = (evidence["log_p_adjusted"] <= np.log(tables.fdr)) & (evidence["effect"] > 0)
        self.evidence = ByFeature(evidence[sure])
        self.recurrence = ByFeature(read_some(tables.recurrence, RECURRENCE))
        self.attribution = ByFeature(read_some(tables.attribution, HEAD_ATTRIBUTION), "feature_layer")
        self.neighbours = ByFeature(read_table(tables.neighbours, EXAMPLE_NEIGHBOURS))

    def known(self) -> set[tuple[int, int]]:
        """Return the features that were chosen to be shown, with samples or without, or traced to heads."""
        return {*self.neighbours.rows, *self.attribution.rows}

    def label(self, key: tuple[int, int]) -> str:
        """Return the label of a feature, given by layer and index; empty if it has none."""
        return next(iter(self.labels[key]["label"]), "")

    def of(self, key: tuple[int, int]) -> list[dict[str, Any]]:
        """Return title and lines of all that is known: texts, or texts with a feature to go to."""
        parts = (self.label_lines, self.head_lines, self.seed_lines, self.near_lines)
        found = [one for part in parts for one in part(key) if one[2]]
        return [{"title": title, "lines": lines} for title, lines in titled(found)]

    def label_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, str, list[Line]]]:
        """Yield the labels, their evidence, and what the decoder row promotes by the logit lens."""
        for row in self.labels[key].itertuples():
            lens = [f"promotes {row.promotes}", f"suppresses {row.suppresses}"]
            yield "Label", row.concept, [row.label, *self.evidence_lines(key, row.concept), *lens]

    def evidence_lines(self, key: tuple[int, int], concept: str) -> Iterator[Line]:
        """Yield the best words and traits behind a label."""
        own = self.evidence[key]
        own = own[(own["concept"] == concept) & (own["rank"] < EVIDENCE)]
        for kind, told in EVIDENT.items():
            rows = own[own["kind"] == kind].sort_values("rank")
            found = ", ".join(f"{row.what} ({100 * row.effect:.0f} %)" for row in rows.itertuples())
            if found:
                yield f"{kind}s: {found} {told}"

    def head_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, str, list[Line]]]:
        """Yield the heads that write it most, by attribution."""
        for concept, rows in self.attribution[key].groupby("concept"):
            best = rows.sort_values(["score", "layer", "head"], ascending=[False, True, True]).head(HEADS)
            lines = [
                f"L{row.layer}H{row.head}, score {row.score:.3f}, mean image {row.signed:+.3g}".replace(
                    "-", "−"
                )
                for row in best.itertuples()
            ]
            yield "Heads that write it", concept, [*lines, HEADS_TOLD]

    def seed_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, str, list[Line]]]:
        """Yield the most similar features of other seeds."""
        own = self.recurrence[key]
        own = own[(own["seed"] == self.seed) & (own["arm"] == "final")]
        for concept, rows in own.groupby("concept"):
            lines = [
                f"seed {row.other_seed}: {feature_name((row.layer, row.match))}, cosine {row.cosine:.3f}"
                + (", final too" if row.match_final else "")
                for row in rows.itertuples()
            ]
            yield "In other seeds", concept, lines

    def near_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, str, list[Line]]]:
        """Yield the features of its dictionary that point most alike."""
        rows = self.neighbours[key].sort_values("rank").itertuples()
        yield (
            "Nearest features",
            "",
            [
                {"go": feature_name((key[0], row.neighbour)), "text": f"cosine {row.cosine:.3f}"}
                for row in rows
            ],
        )

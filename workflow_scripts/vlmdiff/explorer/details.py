"""What the page shows of one feature: samples with the activations of their tokens, and facts in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.tables.causal import HEAD_ATTRIBUTION, STEERING
from vlmdiff.tables.explorer import (
    EXAMPLE_ACTIVATIONS,
    EXAMPLE_BINS,
    EXAMPLE_NEIGHBOURS,
    EXAMPLE_TOKENS,
    EXAMPLES,
)
from vlmdiff.tables.features import RECURRENCE
from vlmdiff.tables.io import read_table, read_tables
from vlmdiff.tables.labels import LABELS

FEATURE = ["layer", "feature"]
HEADS = 3
EDGES = ("left", "top", "right", "bottom")
# Digits of activations and edges: more cannot be seen.
DIGITS = 4


@dataclass(frozen=True)
class DetailTables:
    """Paths of what is told of single features.

    Attributes:
        examples, activations, tokens, bins, neighbours: see `collect_examples`.
        samples: samples.jsonl that these come from.
        labels: LABELS of each concept.
        recurrence: RECURRENCE of each concept.
        steering: STEERING of each steered concept.
        attribution: HEAD_ATTRIBUTION of each traced concept.
    """

    examples: str
    activations: str
    tokens: str
    bins: str
    neighbours: str
    samples: str
    labels: Sequence[str] = ()
    recurrence: Sequence[str] = ()
    steering: Sequence[str] = ()
    attribution: Sequence[str] = ()


class Thumbnails:
    """Small copies of pictures, one file for each content.

    Args:
        folder: where they go.
        side: most pixels of a side; pictures that are smaller keep theirs.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side = folder, side
        self.made: dict[Path, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, sample: Sample) -> str:
        """Return the place of a sample's picture, from the page's folder on."""
        if sample.image_file not in self.made:
            image = sample.open_image()
            image.thumbnail((self.side, self.side))
            content = BytesIO()
            # A drawing of few pixels would blur; photographs take a tenth of the bytes as JPEG.
            kind = "png" if max(image.size) <= 64 else "jpeg"
            image.save(content, kind, quality=85)
            name = f"{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.{kind}"
            (self.folder / name).write_bytes(content.getvalue())
            self.made[sample.image_file] = f"{self.folder.name}/{name}"
        return self.made[sample.image_file]


def feature_name(layer: int, feature: int) -> str:
    """Write a feature as `L{layer}F{index}`."""
    return f"L{layer}F{feature}"


def shown_sample(sample: Sample, tokens: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return what is shown of a sample whatever the feature: picture, patches, words."""
    patches, words = tokens[tokens["left"].notna()], tokens[tokens["left"].isna()]
    told = f"{sample.sample_id}, {sample.group}" + (f", answer {sample.answer}" if sample.answer else "")
    # A vocabulary of whole words has no blanks in its tokens.
    blank = "" if words["text"].str.contains(" ").any() else " "
    return {
        "about": told,
        "image": thumbnails.of(sample) if sample.image else None,
        "patches": [
            [position, *(round(edge, DIGITS) for edge in edges)]
            for position, *edges in zip(*(patches[name].tolist() for name in ("position", *EDGES)))
        ],
        "words": [[int(position), text + blank] for position, text in zip(words["position"], words["text"])],
    }


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


@dataclass(frozen=True)
class Facts:
    """What is told of features in words, from tables of all concepts.

    Attributes:
        seed: of the dictionaries.
        labels, recurrence, steering, attribution, neighbours: the tables.
    """

    seed: int
    labels: ByFeature
    recurrence: ByFeature
    steering: ByFeature
    attribution: ByFeature
    neighbours: ByFeature

    @classmethod
    def of_tables(cls, tables: DetailTables, seed: int) -> Facts:
        """Read the tables."""
        return cls(
            seed,
            ByFeature(read_some(tables.labels, LABELS)),
            ByFeature(read_some(tables.recurrence, RECURRENCE)),
            ByFeature(read_some(tables.steering, STEERING)),
            ByFeature(read_some(tables.attribution, HEAD_ATTRIBUTION), "feature_layer"),
            ByFeature(read_table(tables.neighbours, EXAMPLE_NEIGHBOURS)),
        )

    def of(self, key: tuple[int, int]) -> list[dict[str, Any]]:
        """Return title and lines of all that is known of a feature, given by layer and index."""
        parts = (self.label_lines, self.head_lines, self.seed_lines, self.steering_lines, self.near_lines)
        return [{"title": title, "lines": lines} for part in parts for title, lines in part(key) if lines]

    def label_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, list[str]]]:
        """Yield the labels, and what its decoder row promotes by the logit lens."""
        for row in self.labels[key].itertuples():
            lens = [f"promotes {row.promotes}", f"suppresses {row.suppresses}"]
            yield f"Label ({row.concept})", [row.label, *lens]

    def head_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, list[str]]]:
        """Yield the heads that write it most, by attribution."""
        own = self.attribution[key]
        for concept, rows in own.groupby("concept"):
            best = rows.sort_values(["score", "layer", "head"], ascending=[False, True, True]).head(HEADS)
            lines = [f"L{row.layer}H{row.head}, score {row.score:.3f}" for row in best.itertuples()]
            yield f"Heads that write it ({concept})", lines

    def seed_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, list[str]]]:
        """Yield the most similar features of other seeds."""
        own = self.recurrence[key]
        own = own[(own["seed"] == self.seed) & (own["arm"] == "final")]
        for concept, rows in own.groupby("concept"):
            lines = [
                f"seed {row.other_seed}: {feature_name(row.layer, row.match)}, cosine {row.cosine:.3f}"
                + (", final too" if row.match_final else "")
                for row in rows.itertuples()
            ]
            yield f"In other seeds ({concept})", lines

    def steering_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, list[str]]]:
        """Yield what adding its direction does on test data."""
        own = self.steering[key]
        own = own[(own["arm"] == "feature") & (own["group"] == "all")]
        for concept, rows in own.groupby("concept"):
            lines = [
                f"{row.dataset}, strength {row.strength:g}: accuracy {row.delta_accuracy:+.3f}"
                for row in rows.sort_values(["dataset", "strength"]).itertuples()
            ]
            yield f"Steered by it ({concept})", lines

    def near_lines(self, key: tuple[int, int]) -> Iterator[tuple[str, list[str]]]:
        """Yield the features of its dictionary that point most alike."""
        rows = self.neighbours[key].sort_values("rank")
        lines = [
            f"{feature_name(key[0], row.neighbour)}, cosine {row.cosine:.3f}" for row in rows.itertuples()
        ]
        yield "Nearest features", lines


def read_some(files: Sequence[str], schema: Any) -> pd.DataFrame:
    """Read tables that may be none."""
    return read_tables(files, schema) if files else pd.DataFrame(columns=schema.names)


def details(
    tables: DetailTables, images: Path, side: int, seed: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, content) of each feature that has samples, and write the pictures.

    Args:
        tables: what is told.
        images: folder for the pictures.
        side: most pixels of a picture's side.
        seed: of the dictionaries.
    """
    samples = {sample.sample_id: sample for sample in load_samples(tables.samples)}
    examples = read_table(tables.examples, EXAMPLES)
    tokens = dict(list(read_table(tables.tokens, EXAMPLE_TOKENS).groupby("sample_id")))
    active = activations(read_table(tables.activations, EXAMPLE_ACTIVATIONS))
    bins = ByFeature(read_table(tables.bins, EXAMPLE_BINS))
    facts = Facts.of_tables(tables, seed)
    thumbnails = Thumbnails(images, side)
    shown = {name: shown_sample(samples[name], part, thumbnails) for name, part in tokens.items()}
    for key, chosen in examples.groupby(FEATURE):
        rows = [
            {**shown[row.sample_id], "kind": row.kind, "values": active.get((*key, row.sample_id), {})}
            for row in chosen.itertuples()
        ]
        largest = max(
            (max(one.values(), default=0) for row in rows for one in row["values"].values()), default=0
        )
        yield (
            feature_name(*key),
            {
                "facts": facts.of(key),
                "bins": bins_of(bins[key]),
                "samples": rows,
                "largest": largest,
            },
        )


def bins_of(rows: pd.DataFrame) -> list[list[float]]:
    """Return lower and upper end and tokens of each bin of a feature's activations."""
    return [[float(f"{row.low:.3g}"), float(f"{row.high:.3g}"), int(row.tokens)] for row in rows.itertuples()]


def activations(table: pd.DataFrame) -> dict[tuple[int, int, str], dict[str, dict[int, float]]]:
    """Return the activations of each layer, feature and sample: by dictionary and position."""
    found: dict[tuple[int, int, str], dict[str, dict[int, float]]] = {}
    names = (*FEATURE, "sample_id", "dictionary", "position", "activation")
    for layer, feature, sample, dictionary, position, value in zip(*(table[name].tolist() for name in names)):
        own = found.setdefault((layer, feature, sample), {}).setdefault(dictionary, {})
        own[position] = float(f"{value:.{DIGITS}g}")
    return found

"""What the page shows of one feature: samples with activations, facts, effects, attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.explorer.effects import Effects, EffectTables
from vlmdiff.explorer.facts import ByFeature, Facts, FactTables
from vlmdiff.explorer.looks import Looks, LookTables
from vlmdiff.explorer.pictures import DIGITS, EDGES, Thumbnails
from vlmdiff.tables.explorer import EXAMPLE_ACTIVATIONS, EXAMPLE_BINS, EXAMPLE_TOKENS, EXAMPLES
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.io import read_table

FEATURE = ["layer", "feature"]


@dataclass(frozen=True)
class DetailTables:
    """Paths of what is told of single features.

    Attributes:
        examples, activations, tokens, bins: see `collect_examples`.
        samples: samples.jsonl that these come from.
        facts, effects, looks: of labels, heads and interventions.
    """

    examples: str
    activations: str
    tokens: str
    bins: str
    samples: str
    facts: FactTables
    effects: EffectTables
    looks: LookTables

    @classmethod
    def of(
        cls,
        samples: Mapping[str, str],
        facts: Mapping[str, Any],
        effects: Mapping[str, Sequence[str]],
        looks: Mapping[str, Sequence[str]],
    ) -> DetailTables:
        """Return it from plain values: its own paths, and those of each of its parts."""
        return cls(
            **samples, facts=FactTables(**facts), effects=EffectTables(**effects), looks=LookTables(**looks)
        )


def shown_sample(sample: Sample, tokens: pd.DataFrame, thumbnails: Thumbnails, blank: str) -> dict[str, Any]:
    """Return what is shown of a sample whatever the feature: picture, patches, words with `blank` between."""
    patches, words = tokens[tokens["left"].notna()], tokens[tokens["left"].isna()]
    told = f"{sample.sample_id}, {sample.group}" + (f", answer {sample.answer}" if sample.answer else "")
    return {
        "about": told,
        "image": thumbnails.of(sample) if sample.image else None,
        "patches": [
            [position, *(round(edge, DIGITS) for edge in edges)]
            for position, *edges in zip(*(patches[name].tolist() for name in ("position", *EDGES)))
        ],
        "words": [[int(position), text + blank] for position, text in zip(words["position"], words["text"])],
    }


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
    tokens = read_table(tables.tokens, EXAMPLE_TOKENS)
    blank = between_words(tokens["text"])
    active = activations(read_table(tables.activations, EXAMPLE_ACTIVATIONS))
    bins = ByFeature(read_table(tables.bins, EXAMPLE_BINS))
    thumbnails = Thumbnails(images, side)
    facts, effects = Facts(tables.facts, seed), Effects(tables.effects)
    looks = Looks(tables.looks, thumbnails)
    shown = {
        name: shown_sample(samples[name], part, thumbnails, blank)
        for name, part in tokens.groupby("sample_id")
    }
    by_feature = ByFeature(examples)
    for key in sorted({*by_feature.rows, *facts.known(), *effects.known(), *looks.rows.rows}):
        rows = [
            {**shown[row.sample_id], "kind": row.kind, "values": active.get((*key, row.sample_id), {})}
            for row in by_feature[key].itertuples()
        ]
        largest = max(
            (max(one.values(), default=0) for row in rows for one in row["values"].values()), default=0
        )
        yield (
            feature_name(key),
            {
                "label": facts.label(key),
                "facts": facts.of(key),
                "effects": effects.of(key),
                "looks": looks.of(key),
                "bins": bins_of(bins[key]),
                "samples": rows,
                "largest": largest,
            },
        )


def between_words(texts: pd.Series) -> str:
    """Return what stands between tokens: nothing, unless their vocabulary has whole words without blanks.

    Args:
        texts: of all tokens. Scripts without blanks need none either.
    """
    latin = texts.str.fullmatch(r"[A-Za-z]+")
    return " " if latin.any() and not texts.str.contains(r"\s").any() else ""


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

"""Trace the best-ranked features to heads: attribution.csv, then patching.csv and agreement.csv."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from vlmdiff.data.batching import sample_lengths
from vlmdiff.data.samples import load_samples
from vlmdiff.heads.aggregate import head_scores, mean_share
from vlmdiff.heads.agreement import agreement
from vlmdiff.heads.attribution import attribute
from vlmdiff.heads.corruption import Run, clean_and_corrupt, mean_image, with_images
from vlmdiff.heads.patching import Head, patch_exactly
from vlmdiff.interventions.feature_ablation import check_directions, unit_directions
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    dictionary_folders,
    ranked_features,
    table_of,
)
from vlmdiff.models.memory import gradient_tokens
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.causal import HEAD_AGREEMENT, HEAD_ATTRIBUTION, HEAD_PATCHING
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.io import read_table, write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TracedSamples:
    """Samples whose features are traced to heads.

    Attributes:
        file: samples.jsonl.
        samples: samples with an image to trace, from the first on.
        image_samples: how many of them give the mean image.
        batch_tokens: tokens in one forward pass, padding included.
    """

    file: str
    samples: int
    image_samples: int
    batch_tokens: int

    def runs(self, subject: Subject, for_gradients: bool = False) -> list[Run]:
        """Return the samples as clean and corrupt batches, small enough for gradients if wanted."""
        found = with_images(load_samples(Path(self.file)), max(self.samples, self.image_samples))
        mean = mean_image(subject, found[: self.image_samples], self.batch_tokens)
        traced, tokens = found[: self.samples], self.batch_tokens
        if for_gradients:
            tokens = gradient_tokens(subject, max(sample_lengths(subject, traced)), tokens)
        return clean_and_corrupt(subject, traced, mean, tokens)


def traced_directions(
    ranking: str, count: int, dictionaries: Sequence[str], layers: Sequence[int], concept: str
) -> dict[Feature, Tensor]:
    """Return unit decoder rows of the best-ranked features, best first; none if none is ranked."""
    features = ranked_features(ranking, count)
    if not features:
        log.warning("concept '%s' has no ranked features: nothing to trace", concept)
        return {}
    found = unit_directions(dictionary_folders(dictionaries, layers), features)
    return {feature: found[feature] for feature in features}


def head_rows(feature: Feature, columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield one row a head from `(blocks, heads)` arrays."""
    shape = next(iter(columns.values())).shape
    for layer, head in np.ndindex(shape):
        values = {name: float(array[layer, head]) for name, array in columns.items()}
        place = {"feature_layer": feature[0], "feature": feature[1], "name": feature_name(feature)}
        yield {**place, "layer": layer, "head": head, **values}


def attribution_rows(
    subject: Subject, runs: Sequence[Run], directions: Mapping[Feature, Tensor]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of attribution.csv, the concept aside."""
    check_directions(subject, directions)
    for layer in progress(sorted({own for own, _ in directions}), "feature layers"):
        features = [feature for feature in directions if feature[0] == layer]
        found = attribute(subject, runs, layer, [directions[feature] for feature in features])
        for feature, one in zip(features, found):
            yield from head_rows(feature, vars(one))


def attribute_heads(
    model: ModelFiles,
    traced: TracedSamples,
    dictionaries: Sequence[str],
    ranking: str,
    output: str,
    *,
    layers: Sequence[int],
    concept: str,
    features: int,
) -> None:
    """Attribute the best-ranked features to heads and write attribution.csv.

    Args:
        model: the VLM.
        traced: the samples.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        ranking: ranking.csv of the concept.
        output: attribution.csv.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        features: how many of the best features are traced.
    """
    directions = traced_directions(ranking, features, dictionaries, layers, concept)
    rows: list[dict[str, Any]] = []
    if directions:
        subject = model.load()
        rows = list(attribution_rows(subject, traced.runs(subject, for_gradients=True), directions))
    names = [name for name in HEAD_ATTRIBUTION.names if name not in ("concept", "score")]
    table = table_of(rows, names)
    write_table(table.assign(concept=concept, score=mean_share(table)), HEAD_ATTRIBUTION, output)


def top_and_random(attribution: pd.DataFrame, count: int | None, seed: int) -> dict[Head, float] | None:
    """Choose heads to patch: the `count` of the highest attribution, and as many random others.

    Args:
        attribution: rows of attribution.csv.
        count: heads of each kind; None for all heads.
        seed: of the random choice.

    Returns:
        (block, head) of each, with 1 / the probability with which it was chosen; None for all heads.
    """
    if count is None:
        return None
    scores = head_scores(attribution)
    heads = list(zip(scores["layer"].astype(int), scores["head"].astype(int)))
    top, others = heads[:count], sorted(heads[count:])
    chosen = np.random.default_rng(seed).permutation(len(others))[:count]
    return {**dict.fromkeys(top, 1.0), **{others[i]: len(others) / len(chosen) for i in sorted(chosen)}}


def patching_rows(
    subject: Subject,
    runs: Sequence[Run],
    directions: Mapping[Feature, Tensor],
    heads: Mapping[Head, float] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of patching.csv, the concept aside; heads that were not patched have none.

    Args:
        subject: the model.
        runs: clean and corrupt versions of the samples.
        directions: unit decoder rows of the features.
        heads: those that are patched, with their weights; None for all.
    """
    check_directions(subject, directions)
    for feature, one in patch_exactly(subject, runs, directions, heads).items():
        whole = {"metric_clean": one.metric_clean, "metric_corrupt": one.metric_corrupt}
        for row in head_rows(feature, {"exact": one.exact, "exact_abs": one.exact_abs}):
            if not np.isnan(row["exact"]):
                weight = 1.0 if heads is None else heads[row["layer"], row["head"]]
                yield {**row, **whole, "weight": weight}


def patch_heads(
    model: ModelFiles,
    traced: TracedSamples,
    dictionaries: Sequence[str],
    tables: Mapping[str, str],
    patching: str,
    agreement_output: str,
    *,
    layers: Sequence[int],
    concept: str,
    features: int,
    bootstrap: int,
    exact_heads: int | None = None,
    seed: int = 0,
) -> None:
    """Patch heads exactly; write patching.csv and its agreement with attribution.

    Args:
        model: the VLM.
        traced: the samples, the same as for attribution.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        tables: paths of `ranking` and `attribution`.
        patching: patching.csv.
        agreement_output: agreement.csv.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        features: how many of the best features are traced.
        bootstrap: resamples of the features for the interval of the agreement.
        exact_heads: patch so many heads of the highest attribution and as many random ones; None: all.
        seed: of the random choice and of the resamples.
    """
    directions = traced_directions(tables["ranking"], features, dictionaries, layers, concept)
    attribution = read_table(tables["attribution"], HEAD_ATTRIBUTION)
    rows: list[dict[str, Any]] = []
    if directions:
        subject, heads = model.load(), top_and_random(attribution, exact_heads, seed)
        rows = list(patching_rows(subject, traced.runs(subject), directions, heads))
    names = [name for name in HEAD_PATCHING.names if name != "concept"]
    exact = table_of(rows, names).assign(concept=concept)
    write_table(exact, HEAD_PATCHING, patching)
    compared = agreement(attribution, exact, bootstrap, seed)
    names = [name for name in HEAD_AGREEMENT.names if name != "concept"]
    write_table(table_of(compared, names).assign(concept=concept), HEAD_AGREEMENT, agreement_output)

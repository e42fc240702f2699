"""What the explorer tells of every feature: columns of numbers, flags and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.tables.causal import ABLATION, RANKING
from vlmdiff.tables.feature_names import feature_place
from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES, LEXICAL
from vlmdiff.tables.io import read_table, read_tables
from vlmdiff.tables.world import GROUND_TRUTH

FEATURE = ["layer", "feature"]
NUMBER, FLAG, WORDS = "number", "flag", "words"
LOG_10 = np.log(10)


@dataclass(frozen=True)
class Column:
    """A column of all features.

    Attributes:
        key: its name in filters and in the address.
        title: what stands above it.
        meaning: what it says, with its unit.
        kind: NUMBER (NaN: not measured), FLAG or WORDS (empty: none).
        part: where it belongs: a stage, or a concept.
    """

    key: str
    title: str
    meaning: str
    kind: str
    part: str


Columns = Iterator[tuple[Column, pd.Series]]


@dataclass(frozen=True)
class ConceptTables:
    """Paths of one concept's tables.

    Attributes:
        about: what its features do, in words.
        unit: unit of the contrast that selects, token or sample.
        contrast, lexical, final: of the main comparison.
        limits: what a feature must reach, by the name of the number: of the contrast, and of the lexical
            filter where it decides.
        ranking: validation effects of its candidates; empty where nothing was ablated.
        ablation: test effects, one table a scope; empty where nothing was ablated.
    """

    about: str
    unit: str
    contrast: str
    lexical: str
    final: str
    limits: Mapping[str, float] = field(default_factory=dict)
    ranking: Sequence[str] = ()
    ablation: Sequence[str] = ()


@dataclass(frozen=True)
class OtherComparison:
    """Another comparison with features of the same indices.

    Attributes:
        about: what is different, in a few words.
        adapted: path of its ADAPTED.
    """

    about: str
    adapted: str


def by_feature(table: pd.DataFrame) -> pd.DataFrame:
    """Index a table by layer and feature."""
    return table.set_index(FEATURE).sort_index()


def null_quantile(similarity: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return which share of a null's features turned at least as far, for each feature.

    Args:
        similarity: of the features; NaN stays.
        null: of the null's calibrated features in the same layer.
    """
    known = np.sort(null[np.isfinite(null)])
    if not len(known):
        return np.full(len(similarity), np.nan)
    share = np.searchsorted(known, similarity, side="right") / len(known)
    return np.where(np.isnan(similarity), np.nan, share)


def rotation_columns(adapted: pd.DataFrame) -> Columns:
    """Yield what tuning did to each feature; `adapted` is ADAPTED, indexed by layer and feature."""
    part = "in tuning"
    quantiles = [
        null_quantile(one["similarity"].to_numpy(), one.loc[one["calibrated"], "null_similarity"].to_numpy())
        for _, one in adapted.groupby(level="layer")
    ]
    numbers = (
        (
            "similarity",
            "similarity",
            "1: the feature did not change; a rotation's cosine of decoder rows",
            None,
        ),
        ("null", "null", "the same of the null, which read text alone", adapted["null_similarity"]),
        (
            "null_quantile",
            "null quantile",
            "share of the layer's null features that changed at least as much",
            pd.Series(np.concatenate(quantiles), adapted.index),
        ),
        (
            "visual_energy",
            "visual energy",
            "mean square of its activation over text tokens of samples with images",
            None,
        ),
        ("text_energy", "text energy", "mean square of its activation over tokens of texts alone", None),
        ("visual_rate", "firing rate", "share of text tokens with images on which it fires", None),
    )
    for key, title, meaning, values in numbers:
        yield Column(key, title, meaning, NUMBER, part), adapted[key] if values is None else values
    flags = (
        ("adapted", "adapted", "changed and sees, by the rule of the config"),
        ("calibrated", "calibrated", "the null's text fired it, so that its change has a reference"),
    )
    for key, title, meaning in flags:
        yield Column(key, title, meaning, FLAG, part), adapted[key]


def concept_columns(name: str, tables: ConceptTables, index: pd.MultiIndex) -> Columns:
    """Yield what a concept's contrast, lexical filter and selection say of each feature."""
    contrast = read_table(tables.contrast, CONTRAST)
    contrast = by_feature(contrast[contrast["unit"] == tables.unit]).reindex(index)
    lexical = by_feature(read_table(tables.lexical, LEXICAL))
    final = by_feature(read_table(tables.final, FINAL_FEATURES))
    fires, units = (contrast[f"{one}_target"] + contrast[f"{one}_baseline"] for one in ("fires", "n"))
    numbers = (
        ("effect", "effect", "size of the difference, in units of Cohen's d", contrast["effect_size"]),
        (
            "odds",
            "odds ratio",
            "odds of firing where the concept is shown, by those elsewhere",
            contrast["odds_ratio"],
        ),
        (
            "difference",
            "difference",
            "of the shares on which it fires: where the concept is shown, and elsewhere",
            contrast["freq_difference"],
        ),
        ("frequency", "frequency", "share of the compared samples on which it fires", fires / units),
        (
            "log_p",
            "log₁₀ p",
            "of the contrast, adjusted (Benjamini-Hochberg); its units count as independent",
            contrast["log_p_adjusted"] / LOG_10,
        ),
        (
            "pairs",
            "pairs",
            "share of pictures with a neutral prompt on which it fires",
            share_of(lexical, "pairs").reindex(index),
        ),
        (
            "samples",
            "samples",
            "share of pictures on which it fires with a neutral prompt",
            share_of(lexical, "samples").reindex(index),
        ),
    )
    for key, title, meaning, values in numbers:
        if key in ("odds", "log_p") or key in tables.limits:
            yield Column(f"{name}.{key}", title, meaning, NUMBER, name), values
    flags = (
        ("contrast", "contrast", "the contrast selects it", contrast["selected"].eq(True)),
        (
            "invariant",
            "invariant",
            "fires on enough pictures with a neutral prompt as well",
            in_table(lexical, index, "invariant"),
        ),
        ("final", "final", "passes every filter", pd.Series(index.isin(final.index), index)),
    )
    for key, title, meaning, values in flags:
        yield Column(f"{name}.{key}", title, meaning, FLAG, name), values


def share_of(lexical: pd.DataFrame, what: str) -> pd.Series:
    """Return the share of pairs, or of samples, on which a feature fired; NaN where none was tried."""
    return lexical[f"{what}_fired"] / lexical[what]


def in_table(table: pd.DataFrame, index: pd.MultiIndex, name: str) -> pd.Series:
    """Return a column of truth values for all features; false for those that the table lacks."""
    return pd.Series(index.isin(table.index[table[name]]), index)


def ablation_columns(name: str, tables: ConceptTables, index: pd.MultiIndex, target: str) -> Columns:
    """Yield what ablating each feature alone does; nothing where nothing was ablated.

    Args:
        name: the concept.
        tables: its tables.
        index: layer and feature of all features.
        target: data set of the concept's questions.
    """
    if not tables.ablation:
        return
    ranking = by_feature(read_tables(tables.ranking, RANKING)).reindex(index)
    effects = read_tables(tables.ablation[:1], ABLATION)
    single = effects[(effects["size"] == 1) & (effects["dataset"] == target) & (effects["group"] == "all")]
    tested, pools = single[single["arm"] == "selected"], single[single["arm"] == "random"]
    places = pd.MultiIndex.from_tuples(map(feature_place, tested["features"]), names=FEATURE)
    tested = tested.set_index(places).reindex(index)
    p = ranked_null_p(tested["delta_margin"].to_numpy(), pools["delta_margin"].to_numpy())
    numbers = (
        ("validation", "margin, validation", "change of the answer's margin, in logits, on validation data",
         ranking["target_delta_margin"]),
        ("margin", "margin, test", "the same on test data", tested["delta_margin"]),
        ("low", "from", "lower end of the 95 % interval of the change on test data", tested["margin_low"]),
        ("high", "to", "upper end of that interval", tested["margin_high"]),
        ("null_p", "ranked-null p", "share of random pools whose best feature does as much; uncorrected",
         pd.Series(p, index)),
    )  # fmt: skip
    for key, title, meaning, values in numbers:
        yield Column(f"{name}.{key}", title, meaning, NUMBER, name), values


def ranked_null_p(margins: np.ndarray, pools: np.ndarray) -> np.ndarray:
    """Return (1 + pools that lose at least as much) / (1 + pools) for each change of a margin; NaN stays."""
    known = np.sort(pools)
    share = (1 + np.searchsorted(known, margins, side="right")) / (1 + len(known))
    return np.where(np.isnan(margins), np.nan, share)


def truth_columns(truth: pd.DataFrame, index: pd.MultiIndex) -> Columns:
    """Yield what the built-in world's scene graphs say; `truth` is GROUND_TRUTH of one seed."""
    known, part = by_feature(truth).reindex(index), "ground truth"
    label = known["label"].where(known["matches"].eq(True), "").fillna("")
    yield (
        Column(
            "truth",
            "tells",
            "label that it tells best, of all scenes, by firing or by silence (one of those that tie); "
            "empty: none",
            WORDS,
            part,
        ),
        label,
    )
    yield (
        Column(
            "auroc",
            "AUROC",
            "area under the ROC curve for it; below 0.5 it fires where the label is false",
            NUMBER,
            part,
        ),
        known["auroc"],
    )
    meaning = "the label that it tells best is a place, a relation or truth"
    yield Column("spatial", "spatial", meaning, FLAG, part), known["spatial"].eq(True)


def other_columns(name: str, other: OtherComparison, index: pd.MultiIndex) -> Columns:
    """Yield what another comparison says of the features of the same indices."""
    table = by_feature(read_table(other.adapted, ADAPTED)).reindex(index)
    part = f"{name}: {other.about}"
    turned, changed = (
        f"similarity in that comparison, {other.about}",
        f"adapted in that comparison, {other.about}",
    )
    yield Column(f"{name}.similarity", "similarity", turned, NUMBER, part), table["similarity"]
    yield Column(f"{name}.adapted", "adapted", changed, FLAG, part), table["adapted"].eq(True)


def all_columns(
    adapted: str,
    concepts: Mapping[str, ConceptTables],
    truth: Sequence[str],
    target: str | None,
    others: Mapping[str, OtherComparison],
) -> list[tuple[Column, pd.Series]]:
    """Return every column, its values in the order of layers and features.

    Args:
        adapted: path of ADAPTED.
        concepts: tables of each concept.
        truth: path of GROUND_TRUTH, if this is the built-in world.
        target: data set of the ablation's questions; None where nothing was ablated.
        others: further comparisons.
    """
    table = by_feature(read_table(adapted, ADAPTED))
    found: list[tuple[Column, Any]] = list(rotation_columns(table))
    for name, tables in concepts.items():
        found += concept_columns(name, tables, table.index)
        found += ablation_columns(name, tables, table.index, target) if target else ()
    for file in truth:
        found += truth_columns(read_table(file, GROUND_TRUTH), table.index)
    for name, other in others.items():
        found += other_columns(name, other, table.index)
    return found

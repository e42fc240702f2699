"""Write the explorer: a folder that opens from a disk, without a server and without a network."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.explorer.columns import FLAG, WORDS, Column, ConceptTables, OtherComparison, all_columns
from vlmdiff.explorer.details import DetailTables, details
from vlmdiff.explorer.pack import packed, rounded, script
from vlmdiff.explorer.steps import funnel_steps, rotation_limits

# Of the dictionaries that are shown.
SEED = 0
PAGE = Path(__file__).parent / "page"
# Whose activations stand next to each other.
DICTIONARIES = ("base", "adapted", "null")


def coded(values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Return the different words of a column, the empty one first, and the number of each row's word."""
    words = ["", *sorted(set(values) - {""})]
    place = {word: number for number, word in enumerate(words)}
    return words, values.map(place).to_numpy(np.uint16)


def array_of(column: Column, values: pd.Series) -> np.ndarray:
    """Return numbers and flags of a column as the page reads them."""
    if column.kind == FLAG:
        return values.to_numpy(np.uint8)
    return rounded(values.to_numpy(np.float64))


def about(
    experiment: str,
    found: Sequence[tuple[Column, pd.Series]],
    concepts: Mapping[str, ConceptTables],
    limits: Mapping[str, float],
    details: Sequence[str],
    compared: Mapping[str, str],
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return what the page is told at first, and all columns as arrays."""
    values = {column.key: one for column, one in found}
    words, arrays = {}, []
    for column, one in found:
        if column.kind == WORDS:
            words[column.key], array = coded(one)
        else:
            array = array_of(column, one)
        arrays.append(array)
    counts = next(iter(values.values())).groupby(level="layer").size()
    check_indices(found[0][1].index, counts)
    told = {
        "experiment": experiment,
        "seed": SEED,
        "layers": [{"layer": int(layer), "features": int(count)} for layer, count in counts.items()],
        "columns": [asdict(column) for column, _ in found],
        "dictionaries": list(DICTIONARIES),
        "compared": [{"name": name, "about": about} for name, about in compared.items()],
        "words": words,
        "concepts": [
            {
                "name": name,
                "about": tables.about,
                "steps": funnel_steps(name, values, limits),
                "spatial": spatial_ones(name, values),
            }
            for name, tables in concepts.items()
        ],
        "details": list(details),
        "first": first_view(list(values), list(concepts)),
    }
    return told, arrays


def check_indices(index: pd.MultiIndex, counts: pd.Series) -> None:
    """Refuse tables that lack features: the page numbers those of a layer from 0 on.

    Raises:
        ValueError: naming the layer.
    """
    layers = index.get_level_values("layer")
    for layer, count in counts.items():
        features = index.get_level_values("feature")[layers == layer]
        if not np.array_equal(features, np.arange(count)):
            raise ValueError(
                f"layer {layer}: found {count} features that are not numbered from 0 to {count - 1}; the "
                "explorer needs a row for every feature of a dictionary"
            )


def spatial_ones(concept: str, values: Mapping[str, pd.Series]) -> int | None:
    """Return how many of a concept's final features tell a spatial label best; None where nobody knows."""
    return int((values[f"{concept}.final"] & values["spatial"]).sum()) if "spatial" in values else None


def first_view(keys: Sequence[str], concepts: Sequence[str]) -> dict[str, str]:
    """Return order and axes of the page before anybody has chosen."""
    ranked = [f"{name}.validation" for name in concepts[:1] if f"{name}.validation" in keys]
    ranked += [f"-{name}.final" for name in concepts[:1]]
    return {"sort": [*ranked, "null_quantile"][0], "x": "similarity", "y": "visual_energy"}


def write_explorer(
    folder: str | Path,
    experiment: str,
    adapted: str,
    thresholds: str,
    rule: str,
    concepts: Mapping[str, ConceptTables],
    truth: Sequence[str],
    target: str | None,
    others: Mapping[str, OtherComparison],
    told_of_some: DetailTables | None,
    picture_pixels: int,
    compared: Mapping[str, str],
) -> None:
    """Write the page, its scripts and the columns of all features.

    Args:
        folder: where it goes; what is there is replaced.
        experiment: name of the experiment.
        thresholds: path of THRESHOLDS.
        rule: the rule by which features count as adapted.
        adapted, concepts, truth, target, others: as for `all_columns`.
        told_of_some: samples of some features; None where none were collected.
        picture_pixels: most pixels of a picture's side.
        compared: what each dictionary was trained on, by what it is called on the page.
    """
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("data", "details"):
        (folder / part).mkdir(parents=True)
    names = []
    for name, content in (
        details(told_of_some, folder / "images", picture_pixels, SEED) if told_of_some else ()
    ):
        names.append(name)
        (folder / "details" / f"{name}.js").write_text(script("explorer.detail", name, content))
    found = all_columns(adapted, concepts, truth, target, others)
    limits = rotation_limits(thresholds, rule)
    for name, tables in concepts.items():
        limits |= {f"{name}.{key}": limit for key, limit in tables.limits.items()}
    told, arrays = about(experiment, found, concepts, limits, names, compared)
    shutil.copytree(PAGE, folder / "page", ignore=shutil.ignore_patterns("index.html", "__pycache__"))
    shutil.copyfile(PAGE / "index.html", folder / "index.html")
    (folder / "data" / "about.js").write_text(script("explorer.begin", told))
    layers = found[0][1].index.get_level_values("layer").to_numpy()
    for layer in (one["layer"] for one in told["layers"]):
        own = np.flatnonzero(layers == layer)
        part = packed(array[own] for array in arrays)
        (folder / "data" / f"layer_{layer}.js").write_text(script("explorer.layer", layer, part))

"""Traits of samples: what their metadata say, as plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vlmdiff.data.samples import Sample

# Of these nothing can be learned about a group of samples.
SKIPPED = frozenset({"sample_id", "image", "prompt", "caption", "choices", "chat"})
FEWEST = 10


def values_of(name: str, value: Any) -> Iterator[str]:
    """Yield `name=value` for every plain value in nested metadata; places in lists do not count."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from values_of(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from values_of(name, inner)
    elif isinstance(value, (str, int, bool)):
        yield f"{name}={value}"


def sample_traits(sample: Sample) -> set[str]:
    """Return the traits of one sample: its group, its answer, and all further keys of its line."""
    values = {"group": sample.group, "answer": sample.answer, **(sample.model_extra or {})}
    return {trait for key, value in values.items() if key not in SKIPPED for trait in values_of(key, value)}


def trait_matrix(samples: Sequence[Sample]) -> tuple[list[str], np.ndarray]:
    """Return the traits that at least `FEWEST` samples have and lack, and bool (samples, traits)."""
    traits = [sample_traits(sample) for sample in samples]
    counts = Counter(trait for one in traits for trait in one)
    kept = sorted(t for t, count in counts.items() if FEWEST <= count <= len(samples) - FEWEST)
    place = {trait: i for i, trait in enumerate(kept)}
    matrix = np.zeros((len(samples), len(kept)), dtype=bool)
    for row, one in enumerate(traits):
        matrix[row, [place[trait] for trait in one if trait in place]] = True
    return kept, matrix

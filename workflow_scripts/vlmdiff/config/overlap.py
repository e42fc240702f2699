"""Data sets of one source whose rows overlap: what can be told before anything is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vlmdiff.config.concepts import COUNTERFACTUAL, COUNTS, ConceptConfig, CounterfactualConcept
from vlmdiff.config.datasets import PreparedDataset, SubsetDataset
from vlmdiff.config.sources import HubSource, is_hub

# Entries of one source that agree in these take its rows in one order.
ORDER = ("kind", "split", "seed", "config")
# Which of them an entry takes.
FILTERS = ("questions", "answers", "tasks")


def real_source(source: str) -> str:
    """Return a source under the one name that all its names have in common.

    Paths are made whole and links followed. The hub takes capitals for small letters, and `main` where no
    revision is named.
    """
    if not is_hub(source):
        return os.path.realpath(source)
    parsed = HubSource.parse(source)
    return f"hub:{parsed.repository.lower()}@{parsed.revision}"


def rows_overlap(one: Any, other: Any) -> bool:
    """Tell whether two data sets surely take some rows of one source twice."""
    if not (isinstance(one, PreparedDataset) and isinstance(other, PreparedDataset)):
        return False
    if any(getattr(one, key, None) != getattr(other, key, None) for key in ORDER):
        return False
    if real_source(one.source) != real_source(other.source):
        return False
    # Only rows that both want are taken by both: with the same filter the first ones, at least.
    if any(getattr(one, key, None) != getattr(other, key, None) for key in FILTERS):
        return False
    return max(one.offset, other.offset) < min(one.offset + one.samples, other.offset + other.samples)


def check_concepts(concepts: Mapping[str, ConceptConfig], datasets: Mapping[str, Any]) -> None:
    """Refuse a concept of which target and baseline take the same rows of a source.

    Where groups tell the two apart, and where seeds or filters differ, the contrast compares what the
    samples show (docs/understand/contrast_concept.md).

    Raises:
        ValueError: naming the concept, both data sets and what to change.
    """
    for name, concept in concepts.items():
        if concept.contrast == COUNTERFACTUAL:
            check_transformed(name, concept, datasets)
        if concept.contrast != COUNTS:
            continue
        sides = concept.target, concept.baseline
        one, other = (datasets[side.dataset] for side in sides)
        by_groups = any(side.groups is not None or side.without for side in sides)
        if sides[0].dataset != sides[1].dataset and not by_groups and rows_overlap(one, other):
            raise ValueError(
                f"concepts.{name}: target '{sides[0].dataset}' and baseline '{sides[1].dataset}' take the "
                f"same rows of one source: {one.samples} from {one.offset} on and {other.samples} from "
                f"{other.offset} on; set `offset` so that one begins after the other"
            )


def check_transformed(name: str, concept: CounterfactualConcept, datasets: Mapping[str, Any]) -> None:
    """Refuse a concept whose transformed samples are not those of its target.

    Raises:
        ValueError: naming the key, what was found and what to write.
    """
    for key in ("transformed", "against"):
        if (dataset := getattr(concept, key)) is None:
            continue
        entry = datasets[dataset]
        if not isinstance(entry, SubsetDataset) or entry.of != concept.target.dataset or not entry.transform:
            raise ValueError(
                f"concepts.{name}.{key}: found '{dataset}', expected images of the target's data set with a "
                f"change; name an entry `{{ kind: subset, of: {concept.target.dataset}, transform: "
                "{ mirror: left_right } }` of `datasets`"
            )
    if concept.against == concept.transformed:
        raise ValueError(
            f"concepts.{name}.against: found '{concept.against}', which is `transformed` too; name a data "
            "set with a change that leaves the concept alone, or leave it out"
        )

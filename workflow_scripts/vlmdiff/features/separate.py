"""A sample stands on one side of a contrast: shared ones are found by what they show, not by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.data.identity import shared_samples
from vlmdiff.features.sums import SampleSet, SampleSetError

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample


def counted_samples(
    file: str | Path, count: int, groups: Collection[str] | None, without: Collection[str]
) -> list[Sample]:
    """Return the samples of a data set that a side of a contrast counts."""
    from vlmdiff.data.samples import load_samples

    return [
        one
        for one in load_samples(file, limit=count)
        if (groups is None or one.group in groups) and one.group not in without
    ]


def check_separate(
    concept: str, sides: Sequence[dict], files: Sequence[str | Path], counts: Sequence[int]
) -> None:
    """Refuse a concept whose target and baseline share samples, under whatever names.

    Fisher's test takes the two sides for separate draws; what stands on both sides hides a difference.
    Two groups of one data set are separate.

    Args:
        concept: its name.
        sides: its target and its baseline (`dataset`, `groups`, `without`).
        files: samples.jsonl of both.
        counts: samples of both data sets that are used.

    Raises:
        SampleSetError: naming shared samples and what to do.
    """
    target, baseline = map(SampleSet.of, sides)
    if target.dataset == baseline.dataset:
        return
    ones, others = (
        counted_samples(file, count, side.groups, side.without)
        for file, count, side in zip(files, counts, (target, baseline), strict=True)
    )
    if pairs := list(shared_samples(ones, others)):
        one, other = pairs[0]
        raise SampleSetError(
            f"concepts.{concept}: target '{target.dataset}' and baseline '{baseline.dataset}' share "
            f"{len(pairs)} samples of the same text and image, e.g. '{one.sample_id}' and "
            f"'{other.sample_id}', expected none; take other rows of the source (`offset`, `questions`) or "
            "leave groups out (`without`)"
        )

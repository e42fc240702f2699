"""A sample stands on one side of a contrast: shared ones are found by what they show, not by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.features.sums import SampleSet, SampleSetError
from vlmdiff.runtime.files import file_sha256

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample

Shown = tuple[str, bool, int | None]


def shown(sample: Sample) -> Shown:
    """Return what can be told of a sample at once: text, template, bytes of its image."""
    file = sample.image_file
    return sample.prompt, sample.chat, None if file is None else file.stat().st_size


def image_digest(sample: Sample) -> str | None:
    """Return the digest of a sample's image; None if it has none."""
    return None if sample.image_file is None else file_sha256(sample.image_file)


def shared_samples(ones: Sequence[Sample], others: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Return pairs of samples of the same text and the same image.

    Images are read only where the text and their numbers of bytes agree.
    """
    known: dict[Shown, list[Sample]] = defaultdict(list)
    for one in ones:
        known[shown(one)].append(one)
    pairs = [(one, other) for other in others for one in known.get(shown(other), ())]
    return [pair for pair in pairs if image_digest(pair[0]) == image_digest(pair[1])]


def chosen(
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
        chosen(file, count, side.groups, side.without)
        for file, count, side in zip(files, counts, (target, baseline), strict=True)
    )
    if pairs := shared_samples(ones, others):
        one, other = pairs[0]
        raise SampleSetError(
            f"concepts.{concept}: target '{target.dataset}' and baseline '{baseline.dataset}' share "
            f"{len(pairs)} samples of the same text and image, e.g. '{one.sample_id}' and "
            f"'{other.sample_id}', expected none; take other rows of the source (`offset`, `questions`) or "
            "leave groups out (`without`)"
        )

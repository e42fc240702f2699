"""Part of another data set: its samples are chosen by image and group, its images are linked to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdiff.config.datasets import SubsetDataset
from vlmdiff.config.parts import Parts
from vlmdiff.config.subsets import as_taken, keys_of, subset_indices
from vlmdiff.data.images import KnownImage
from vlmdiff.data.offers import Candidate, Offer
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.data.transforms import TransformedImage
from vlmdiff.runtime.files import file_sha256
from vlmdiff.runtime.reading import IMAGES


@dataclass(frozen=True)
class Source:
    """The data set that another one is part of.

    Attributes:
        file: its samples.jsonl.
        samples: how many of its samples the configuration uses, from the first on.
        parts: how it is split.
        root: what all its image paths begin with, if that is not part of a picture's name; else empty.
    """

    file: str | Path
    samples: int
    parts: Parts = Parts()
    root: str = ""


def offer_subset(entry: SubsetDataset, source: Source) -> Offer:
    """Return the samples of a subset, in the order of the data set that it is part of.

    Raises:
        DataError: a group is not there, or no sample is left.
    """
    samples = load_samples(source.file, limit=source.samples)
    records = [sample.model_dump(mode="json") for sample in samples]
    same = same_bytes(samples)
    keys = [[*keys_of(record, source.root), *same[i]] for i, record in enumerate(records)]
    folder = Path(source.file).parent.resolve()
    names = [sample.image for sample in samples if sample.image is not None]
    below = f"{IMAGES}/" if all(name.startswith(f"{IMAGES}/") for name in names) else ""
    wanted = set(subset_indices(entry, records, source.parts, keys))
    rows = (
        candidate(entry, record, folder, below) if i in wanted else None for i, record in enumerate(records)
    )
    linked = entry.images and names and entry.transform is None
    return Offer(rows, (folder / below).resolve() if linked else None, str(source.file))


def candidate(entry: SubsetDataset, record: Mapping[str, Any], folder: Path, below: str) -> Candidate:
    """Make a candidate of a sample of the other data set.

    Args:
        entry: the subset.
        record: the sample.
        folder: the other data set's.
        below: what all paths of images there begin with, and the link to them stands for.
    """
    values = as_taken(entry, record)
    if (image := values.pop("image")) is None:
        return Candidate(values)
    file, name = folder / image, image.removeprefix(below)
    if entry.transform is None:
        return Candidate(values, KnownImage(file, name))
    return Candidate(values, TransformedImage(file, name, entry.transform))


def same_bytes(samples: Sequence[Sample]) -> list[list[str]]:
    """Return of each sample a key that it shares with others whose image is another file of the same bytes.

    Only files of one size are read.
    """
    found: list[list[str]] = [[] for _ in samples]
    by_file: dict[Path, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        if sample.image_file is not None:
            by_file[sample.image_file.resolve()].append(index)
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in by_file:
        by_size[file.stat().st_size].append(file)
    for file, indices in by_file.items():
        # Several names of one file, by links.
        for index in indices if len(indices) > 1 else ():
            found[index].append(f"file {file}")
    for files in by_size.values():
        for file in files if len(files) > 1 else ():
            digest = f"bytes {file_sha256(file)}"
            for index in by_file[file]:
                found[index].append(digest)
    return found

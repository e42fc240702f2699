"""Prepare a data set: take what the config asks for, find the images, write samples.jsonl and the counts."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from vlmdiff.config.datasets import (
    CvBenchDataset,
    Dataset,
    FolderDataset,
    GqaDataset,
    SubsetDataset,
    TextDataset,
    VqaDataset,
    VsrDataset,
    WhatsUpDataset,
    skipping,
)
from vlmdiff.config.samples_file import REMEDY, data_folder, find_samples, read_records
from vlmdiff.data.corpus import offer_text
from vlmdiff.data.cv_bench import offer_cv_bench
from vlmdiff.data.gqa import offer_gqa
from vlmdiff.data.images import DamagedImageError, LocalImage, MissingImageError
from vlmdiff.data.offers import Candidate, Offer
from vlmdiff.data.samples import DataError, Sample, make_sample
from vlmdiff.data.subset import Source, offer_subset
from vlmdiff.data.vqa import offer_vqa
from vlmdiff.data.vsr import offer_vsr
from vlmdiff.data.whats_up import offer_whats_up
from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.reading import within
from vlmdiff.tables.data import DATASET_COUNTS
from vlmdiff.tables.io import write_table

log = logging.getLogger(__name__)
THREADS = 16
SHOWN = 5
# What may be wrong with images, and what to do about it.
REMEDIES = (
    (MissingImageError, "missing", "bring the missing images"),
    (DamagedImageError, "damaged", "put whole copies in the place of damaged images"),
)
# Keys that say where samples come from, of different kinds of data sets.
SOURCES = ("source", "path", "of")


def offer_folder(entry: FolderDataset) -> Offer:
    """Return the samples of the user's own folder, whose images may be missing."""
    root, real = data_folder(entry.path).resolve(), cache(os.path.realpath)
    place = f"{find_samples(entry.path)}: sample"
    rows = [of_record(record, root, place, real) for record in read_records(entry.path)]
    return Offer(rows, root, str(entry.path))


def of_record(record: Mapping[str, Any], root: Path, place: str, real: Callable[[str], str]) -> Candidate:
    """Make a candidate of a record of a folder; `real` as for `within`.

    Raises:
        DataError: its image leads out of the folder.
    """
    values = {key: value for key, value in record.items() if key != "image"}
    if (image := record["image"]) is None:
        return Candidate(values)
    try:
        within(root, image, real)
    except DataError as error:
        raise DataError(f"{place} '{record['sample_id']}': image: {error}; {REMEDY}") from None
    return Candidate(values, LocalImage(root, [image]))


OFFERS: tuple[tuple[type, Callable[[Any], Offer]], ...] = (
    (VqaDataset, offer_vqa),
    (GqaDataset, offer_gqa),
    (VsrDataset, offer_vsr),
    (WhatsUpDataset, offer_whats_up),
    (CvBenchDataset, offer_cv_bench),
    (TextDataset, offer_text),
    (FolderDataset, offer_folder),
)


def prepare_dataset(
    name: str,
    values: dict[str, Any],
    samples_file: str | Path,
    counts_file: str | Path,
    source: Source | None = None,
) -> None:
    """Write a data set's samples.jsonl, its images or a link to them, and the table DATASET_COUNTS.

    Args:
        name: name of the data set in the config.
        values: its entry.
        samples_file: written last, so that a data set is whole or absent.
        counts_file: how many samples were asked for, found and kept.
        source: what a subset is part of; None for other kinds.

    Raises:
        DataError: the source has too few samples, a wrong one, or two of one id; or images are missing, all
            of them or with `on_missing: error`.
    """
    entry = TypeAdapter(Dataset).validate_python(values)
    offer = offered(name, entry, source)
    wanted = offer.take(entry.samples, getattr(entry, "offset", 0))
    check_enough(name, entry, len(wanted))
    images = Path(samples_file).parent / "images"
    start_images(images, offer.linked)
    lines, missing, seen = [], [], set()
    for candidate, place in progress(placed(wanted, images), "samples", len(wanted)):
        image = f"images/{place}" if isinstance(place, str) else None
        sample = checked_sample({**candidate.values, "image": image}, name)
        if sample.sample_id in seen:
            raise DataError(
                f"datasets.{name}: the source has several samples of one id, '{sample.sample_id}'; "
                "choose another split"
            )
        seen.add(sample.sample_id)
        if isinstance(place, MissingImageError):
            missing.append(place)
        else:
            lines.append(sample)
    report_missing(name, missing, len(wanted), getattr(entry, "on_missing", None))
    write_samples(lines, samples_file)
    write_counts(name, entry, offer, (len(wanted), len(lines), len(missing)), counts_file)


def offered(name: str, entry: Any, source: Source | None) -> Offer:
    """Return what the source of a data set offers.

    Raises:
        DataError: it cannot be read, or a subset is empty.
    """
    if not isinstance(entry, SubsetDataset):
        return next(make for kind, make in OFFERS if isinstance(entry, kind))(entry)
    try:
        return offer_subset(entry, source)
    except DataError as error:
        raise DataError(f"datasets.{name}: {error}") from None


def check_enough(name: str, entry: Any, found: int) -> None:
    """Refuse a source that has too few samples; of a subset the number is often known here alone.

    Raises:
        DataError: naming the data set and what to do.
    """
    if entry.samples is None or found >= entry.samples:
        return
    if isinstance(entry, SubsetDataset):
        log.warning("%d samples, fewer than the %d planned: all are used", found, entry.samples)
        return
    raise DataError(
        f"datasets.{name}: found {found} samples, but the config asks for {entry.samples}; lower `samples` "
        "or `offset`, or choose another split"
    )


def checked_sample(values: dict[str, Any], name: str) -> Sample:
    """Make a sample of what a source offers.

    Raises:
        DataError: naming data set, sample and what is wrong.
    """
    try:
        return make_sample(values)
    except DataError as error:
        raise DataError(
            f"datasets.{name}: sample {values.get('sample_id')!r} of the source cannot be used: {error}; "
            "correct the source"
        ) from None


def placed(
    wanted: Sequence[Candidate], images: Path
) -> Iterator[tuple[Candidate, str | MissingImageError | None]]:
    """Yield each candidate with the path of its image, or the error that says why there is none."""

    def place(candidate: Candidate) -> str | MissingImageError | None:
        try:
            return None if candidate.picture is None else candidate.picture.place(images)
        except MissingImageError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from zip(wanted, pool.map(place, wanted), strict=True)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise


def start_images(images: Path, linked: Path | None) -> None:
    """Make the folder of images, or the link to where they lie; written images of an earlier try are kept."""
    images.parent.mkdir(parents=True, exist_ok=True)
    if images.is_symlink():
        images.unlink()
    elif linked is not None and images.exists():
        shutil.rmtree(images)
    if linked is None:
        images.mkdir(exist_ok=True)
    else:
        linked.mkdir(parents=True, exist_ok=True)
        images.symlink_to(linked)


def report_missing(name: str, missing: Sequence[MissingImageError], wanted: int, policy: str | None) -> None:
    """Log missing and damaged images, or refuse to go on without them.

    Args:
        name: of the data set.
        missing: of each sample without an image why it has none.
        wanted: how many samples were asked for.
        policy: `on_missing` of the data set; None of a kind that has no such key.

    Raises:
        DataError: images are missing and the policy is not `skip`, or nothing is left.
    """
    if not missing:
        return
    told = [line for kind, word, _ in REMEDIES for line in images_told(kind, word, missing, wanted)]
    if policy != "skip" or len(missing) == wanted:
        advice = [remedy for kind, _, remedy in REMEDIES if any(type(one) is kind for one in missing)]
        if len(missing) == wanted:
            advice.append("correct the folder: `on_missing: skip` would leave no sample")
        elif policy is not None:
            advice.append(skipping(name))
        raise DataError(f"datasets.{name}: " + "\n".join(told) + ";\n" + ", or ".join(advice))
    log.warning("left out: %s", "\n".join(told))


def images_told(
    kind: type[MissingImageError], word: str, missing: Sequence[MissingImageError], wanted: int
) -> Iterator[str]:
    """Yield how many images something is wrong with, and which, each once; nothing if there are none.

    Args:
        kind: what is wrong with them.
        word: the same in a word.
        missing, wanted: see `report_missing`.
    """
    found = [str(one) for one in missing if type(one) is kind]
    images = list(dict.fromkeys(found))
    if not images:
        return
    verb = "image is" if len(images) == 1 else "images are"
    yield f"{len(images)} {verb} {word}, of {len(found)} of {wanted} samples:"
    yield from (f"  {image}" for image in images[:SHOWN])
    if len(images) > SHOWN:
        yield "  …"


def write_samples(lines: Sequence[Sample], samples_file: str | Path) -> None:
    """Write samples.jsonl."""
    with replacing(samples_file) as temporary:
        text = (json.dumps(line.model_dump(mode="json"), ensure_ascii=False) for line in lines)
        temporary.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")


def write_counts(
    name: str, entry: Any, offer: Offer, counts: tuple[int, int, int], counts_file: str | Path
) -> None:
    """Write the one row of the table DATASET_COUNTS."""
    wanted, kept, missing = counts
    row = {
        "dataset": name,
        "kind": entry.kind,
        "source": next(getattr(entry, key) for key in SOURCES if hasattr(entry, key)),
        "origin": offer.origin,
        "split": getattr(entry, "split", "") or getattr(entry, "part", ""),
        "offset": getattr(entry, "offset", 0),
        "scanned": offer.scanned,
        "requested": wanted,
        "missing_images": missing,
        "kept": kept,
    }
    write_table(pd.DataFrame([row]), DATASET_COUNTS, counts_file)

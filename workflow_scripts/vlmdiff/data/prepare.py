"""Prepare a data set: take what the config asks for, find the images, write samples.jsonl and the counts."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from vlmdiff.config.datasets import (
    Dataset,
    FolderDataset,
    TextDataset,
    VqaDataset,
    VsrDataset,
    WhatsUpDataset,
)
from vlmdiff.config.samples_file import REMEDY
from vlmdiff.data.candidates import Candidate, Offer
from vlmdiff.data.corpus import offer_text
from vlmdiff.data.images import LocalImage, MissingImageError
from vlmdiff.data.samples import DataError, Sample, make_sample
from vlmdiff.data.vqa import offer_vqa
from vlmdiff.data.vsr import offer_vsr
from vlmdiff.data.whats_up import offer_whats_up
from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.reading import needed, read_json_lines, within
from vlmdiff.tables.data import DATASET_COUNTS
from vlmdiff.tables.io import write_table

log = logging.getLogger(__name__)
THREADS = 16
SHOWN = 5


def offer_folder(entry: FolderDataset) -> Offer:
    """Return the samples of the user's own folder, whose images may be missing."""
    file, root = Path(entry.path) / "samples.jsonl", Path(entry.path).resolve()
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected one JSON object a line (docs/understand/formats.md)")
    lines, real = read_json_lines(file, REMEDY), cache(os.path.realpath)
    rows = [of_line(line, root, f"{file}: line {i}", real) for i, line in lines]
    return Offer(rows, root, str(entry.path))


def of_line(line: Any, root: Path, place: str, real: Callable[[str], str] = os.path.realpath) -> Candidate:
    """Make a candidate of a line of samples.jsonl; `real` as for `within`.

    Raises:
        DataError: it is no JSON object, or its image is no path, or one that leads out of the folder.
    """
    values = needed(line, (), place, REMEDY)
    image = values.pop("image", None)
    if not isinstance(image, str | None):
        raise DataError(f"{place}: image: found {image!r}, expected a path or null; {REMEDY}")
    if image is None:
        return Candidate(values, place=place)
    try:
        within(root, image, real)
    except DataError as error:
        raise DataError(f"{place}: image: {error}; {REMEDY}") from None
    return Candidate(values, LocalImage(root, [image]), place)


OFFERS: tuple[tuple[type, Callable[[Any], Offer]], ...] = (
    (VqaDataset, offer_vqa),
    (VsrDataset, offer_vsr),
    (WhatsUpDataset, offer_whats_up),
    (TextDataset, offer_text),
    (FolderDataset, offer_folder),
)


def prepare_dataset(
    name: str, values: dict[str, Any], samples_file: str | Path, counts_file: str | Path
) -> None:
    """Write a data set's samples.jsonl, its images or a link to them, and the table DATASET_COUNTS.

    Args:
        name: name of the data set in the config.
        values: its entry.
        samples_file: written last, so that a data set is whole or absent.
        counts_file: how many samples were asked for, found and kept.

    Raises:
        DataError: the source has too few samples, a wrong one, or two of one id; or images are missing, all
            of them or with `on_missing: error`.
    """
    entry = TypeAdapter(Dataset).validate_python(values)
    offer = next(make for kind, make in OFFERS if isinstance(entry, kind))(entry)
    wanted = offer.take(entry.samples, getattr(entry, "offset", 0))
    if len(wanted) < entry.samples:
        raise DataError(
            f"datasets.{name}: found {len(wanted)} samples, but the config asks for {entry.samples}; lower "
            "`samples` or `offset`, or choose another split"
        )
    images = Path(samples_file).parent / "images"
    start_images(images, offer.linked)
    lines, missing, first = [], [], {}
    for candidate, place in progress(placed(wanted, images), "samples", len(wanted)):
        image = f"images/{place}" if isinstance(place, str) else None
        sample = checked_sample({**candidate.values, "image": image}, name)
        if (before := first.setdefault(sample.sample_id, candidate)) is not candidate:
            raise DataError(f"datasets.{name}: {same_id(sample.sample_id, before, candidate)}")
        if isinstance(place, MissingImageError):
            missing.append(place)
        else:
            lines.append(sample)
    report_missing(name, missing, len(wanted), entry.on_missing)
    write_samples(lines, samples_file)
    write_counts(name, entry, offer, (len(wanted), len(lines), len(missing)), counts_file)


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


def same_id(sample_id: str, before: Candidate, candidate: Candidate) -> str:
    """Say where two samples share an id, and what to do."""
    if candidate.place:
        return f"{candidate.place}: sample_id: '{sample_id}' was used before ({before.place}); make it unique"
    return f"the source has several samples of one id, '{sample_id}'; choose another split"


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


def report_missing(name: str, missing: Sequence[DataError], wanted: int, policy: str) -> None:
    """Log missing images, or refuse to go on without them.

    Raises:
        DataError: images are missing and the policy is `error`, or nothing is left.
    """
    if not missing:
        return
    listed = "\n  ".join([*map(str, missing[:SHOWN]), *(["…"] if len(missing) > SHOWN else [])])
    if policy == "error" or len(missing) == wanted:
        skip = "set `on_missing: skip` to go on without them"
        advice = skip if policy == "error" else "correct the folder: `on_missing: skip` would leave no sample"
        raise DataError(
            f"datasets.{name}: {len(missing)} of {wanted} images are missing:\n  {listed}\n"
            f"bring them, or {advice}"
        )
    log.warning("%d of %d images are missing and left out:\n  %s", len(missing), wanted, listed)


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
        "source": getattr(entry, "source", None) or entry.path,
        "origin": offer.origin,
        "split": getattr(entry, "split", ""),
        "offset": getattr(entry, "offset", 0),
        "scanned": offer.scanned,
        "requested": wanted,
        "missing_images": missing,
        "kept": kept,
    }
    write_table(pd.DataFrame([row]), DATASET_COUNTS, counts_file)

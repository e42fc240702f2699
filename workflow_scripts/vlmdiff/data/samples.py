"""Samples of a data set: one JSON object a line, each checked before anything heavy starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from vlmdiff.config.record import Record, checked
from vlmdiff.config.samples_file import first_problems, json_rows
from vlmdiff.runtime.reading import DataError, within

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DataError", "Sample", "load_samples"]
Read = TypeVar("Read")


class Sample(Record):
    """A record of a data set whose folder is known.

    Attributes:
        folder: the data set's folder, set by `load_samples`.
    """

    folder: Path = Field(Path(), exclude=True)

    @property
    def image_file(self) -> Path | None:
        """Path of the image, or None."""
        return None if self.image is None else self.folder / self.image

    def open_image(self) -> Image | None:
        """Return the image in RGB, turned upright as EXIF says, or None if there is none.

        Raises:
            DataError: the file is not an image.
        """
        from vlmdiff.data.pictures import load_picture

        return self._read_image(load_picture)

    def image_size(self) -> tuple[int, int] | None:
        """Return width and height in pixels, read from the file's header, or None if there is no image.

        Raises:
            DataError: the file is not an image.
        """
        from vlmdiff.data.pictures import picture_size

        return self._read_image(picture_size)

    def _read_image(self, read: Callable[[Path], Read]) -> Read | None:
        if self.image_file is None:
            return None
        try:
            return read(self.image_file)
        except DataError as error:
            raise DataError(
                f"{self.image_file}: image of sample '{self.sample_id}' cannot be read ({error}); "
                "replace the file"
            ) from error


def load_samples(samples_file: str | Path, limit: int | None = None) -> list[Sample]:
    """Read samples.jsonl; every line is checked, whatever the limit.

    Args:
        samples_file: the file; images are looked for beside it.
        limit: at most this many samples, from the first on.

    Raises:
        DataError: naming each of the first wrong lines, what was found and what to do.
    """
    file = Path(samples_file)
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; expected one JSON object a line, as docs/understand/formats.md describes"
        )
    samples, problems, seen, real = [], [], {}, cache(os.path.realpath)
    for number, row in json_rows(file):
        try:
            sample = of_row(row, file.parent, real)
        except DataError as error:
            problems.append(f"line {number}: {error}")
            continue
        if sample.sample_id in seen:
            problems.append(
                f"line {number}: sample_id: '{sample.sample_id}' was used in line "
                f"{seen[sample.sample_id]}; make it unique"
            )
        seen[sample.sample_id] = number
        samples.append(sample)
    if problems or not samples:
        raise DataError(first_problems(file, problems))
    return samples[:limit]


def of_row(row: Any, folder: Path, real: Callable[[str], str] = os.path.realpath) -> Sample:
    """Check what `json_rows` yields and the existence of its image; `real` as for `within`."""
    if isinstance(row, DataError):
        raise row
    sample = make_sample({**row, "folder": folder})
    if sample.image is None:
        return sample
    try:
        found = within(folder, sample.image, real).is_file()
    except DataError as error:
        raise DataError(f"image: {error}") from None
    if not found:
        raise DataError(
            f"image: no file {sample.image_file}; put it there, write "
            "`datasets: { NAME: { on_missing: skip } }` into the config, or set image to null if nothing "
            "about an image is asked"
        )
    return sample


def make_sample(values: Mapping[str, Any]) -> Sample:
    """Make a sample of plain values.

    Raises:
        DataError: naming every key that is wrong, and what was found.
    """
    return checked(Sample, values)


def dataset_fingerprint(samples: Iterable[Sample]) -> str:
    """Digest all lines and the sizes of their images; independent of folder and machine.

    Image content is not read: hashing it for every block would cost as much as using it.
    """
    total = hashlib.sha256()
    for sample in samples:
        size = None if sample.image_file is None else sample.image_file.stat().st_size
        line = json.dumps([sample.model_dump(mode="json"), size], sort_keys=True, ensure_ascii=False)
        total.update(line.encode() + b"\n")
    return total.hexdigest()[:32]

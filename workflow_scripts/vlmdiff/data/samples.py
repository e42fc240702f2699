"""Samples of a data set: one JSON object a line, each checked before anything heavy starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlmdiff.data.errors import DataError
from vlmdiff.data.reading import CONTROL, lines_of, name_problem, parse_json, read_text, within

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DataError", "Sample", "load_samples"]
Read = TypeVar("Read")
LONGEST_SHOWN = 120
REMEDY = "correct the file (docs/understand/formats.md)"


def check_line(text: str) -> str:
    """Refuse control characters in what becomes a name in tables and figures."""
    if CONTROL.search(text):
        raise ValueError("expected one line of text without control characters")
    return text


Line = Annotated[str, AfterValidator(check_line)]


class Sample(BaseModel):
    """One question, statement or document; further keys of the line are kept as attributes.

    Attributes:
        sample_id: unique in the data set.
        image: path relative to the data set's folder, or None.
        prompt: what the user asks; for text corpora the document itself.
        answer: expected first word of the answer, one of `choices`.
        choices: all possible answers.
        group: relation or kind of question.
        chat: whether the prompt is put into the model's chat template; False for documents.
        folder: the data set's folder, set by `load_samples`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    sample_id: Line = Field(min_length=1)
    image: str | None = None
    prompt: str = Field(min_length=1)
    answer: Line | None = None
    choices: list[Line] | None = None
    group: Line = Field(min_length=1)
    chat: bool = True
    folder: Path = Field(Path(), exclude=True)

    @model_validator(mode="after")
    def answer_is_a_choice(self) -> Sample:
        """Choices are distinct, at least two, and hold the answer."""
        if self.choices is None:
            return self
        if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
            raise ValueError(f"choices: expected at least two different answers, found {self.choices}")
        if self.answer is not None and self.answer not in self.choices:
            raise ValueError(f"answer: found '{self.answer}', expected one of the choices {self.choices}")
        return self

    @model_validator(mode="after")
    def image_is_relative(self) -> Sample:
        """Images lie within the data set's folder, so that the folder can be moved."""
        if self.image is not None and (problem := name_problem(self.image)):
            raise ValueError(f"image: {problem}, found {self.image!r}")
        return self

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
    for number, line in lines_of(read_text(file, REMEDY)):
        try:
            sample = parse_line(line, file.parent, real)
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
        raise DataError(report(file, problems))
    return samples[:limit]


def report(file: Path, problems: Sequence[str], shown: int = 5) -> str:
    """Write the first problems of a file, one a line."""
    if not problems:
        return f"{file}: found no samples; expected one JSON object a line"
    more = [f"… and {len(problems) - shown} more lines"] if len(problems) > shown else []
    return "\n  ".join([f"{file} is not a valid data set; {REMEDY}:", *problems[:shown], *more])


def parse_line(line: str, folder: Path, real: Callable[[str], str] = os.path.realpath) -> Sample:
    """Check one line and the existence of its image; `real` as for `within`."""
    values = parse_json(line)
    if not isinstance(values, dict):
        hint = "; write one object a line, without brackets around all" if isinstance(values, list) else ""
        raise DataError(f"expected a JSON object, found {type(values).__name__}{hint}")
    sample = make_sample({**values, "folder": folder})
    if sample.image is None:
        return sample
    try:
        found = within(folder, sample.image, real).is_file()
    except DataError as error:
        raise DataError(f"image: {error}") from None
    if not found:
        raise DataError(
            f"image: no file {sample.image_file}; put it there, name `on_missing: skip` in the config, or "
            "set image to null if nothing about an image is asked"
        )
    return sample


def make_sample(values: Mapping[str, Any]) -> Sample:
    """Make a sample of plain values.

    Raises:
        DataError: naming every key that is wrong, and what was found.
    """
    try:
        return Sample.model_validate(values)
    except ValidationError as error:
        raise DataError("; ".join(map(explain, error.errors()))) from None


def explain(problem: dict) -> str:
    """Write one of pydantic's findings as key, cause, what was found."""
    key = ".".join(map(str, problem["loc"]))
    cause = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: missing"
    found = repr(problem["input"])
    return f"{key}: {cause} (found: {found[:LONGEST_SHOWN]})" if key else cause[: 3 * LONGEST_SHOWN]


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

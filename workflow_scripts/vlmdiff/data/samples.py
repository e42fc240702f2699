"""Samples of a data set: one JSON object a line, each checked before anything heavy starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from PIL.Image import Image

Read = TypeVar("Read")


class DataError(ValueError):
    """A data set is not as docs/formats.md says; the message names file, line and remedy."""


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

    sample_id: str = Field(min_length=1)
    image: str | None = None
    prompt: str = Field(min_length=1)
    answer: str | None = None
    choices: list[str] | None = None
    group: str = Field(min_length=1)
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
        path = PurePosixPath(self.image or "")
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"image: expected a path within the data set's folder, found '{self.image}'")
        return self

    @property
    def image_file(self) -> Path | None:
        """Path of the image, or None."""
        return None if self.image is None else self.folder / self.image

    def open_image(self) -> Image | None:
        """Return the image in RGB, or None if there is none.

        Raises:
            DataError: the file is not an image.
        """
        return self._read_image(lambda image: image.convert("RGB"))

    def image_size(self) -> tuple[int, int] | None:
        """Return width and height in pixels, read from the file's header, or None if there is no image.

        Raises:
            DataError: the file is not an image.
        """
        return self._read_image(lambda image: image.size)

    def _read_image(self, read: Callable[[Image], Read]) -> Read | None:
        if self.image_file is None:
            return None
        from PIL import Image

        try:
            with Image.open(self.image_file) as image:
                return read(image)
        except OSError as error:
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
            f"{file}: no such file; expected one JSON object a line, as docs/formats.md describes"
        )
    samples, problems, seen = [], [], {}
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            sample = parse_line(line, file.parent)
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
    return "\n  ".join(
        [f"{file} is not a valid data set; correct the file (docs/formats.md):", *problems[:shown], *more]
    )


def parse_line(line: str, folder: Path) -> Sample:
    """Check one line and the existence of its image."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"expected a JSON object, found {type(values).__name__}")
    try:
        sample = Sample.model_validate({**values, "folder": folder})
    except ValidationError as error:
        raise DataError("; ".join(map(explain, error.errors()))) from None
    if sample.image_file is not None and not sample.image_file.is_file():
        raise DataError(f"image: no file {sample.image_file}; put it there or set image to null")
    return sample


def explain(problem: dict) -> str:
    """Write one of pydantic's findings as key, cause, what was found."""
    key = ".".join(map(str, problem["loc"]))
    cause = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {cause} (found: {problem['input']!r})" if key else cause


def select_samples(
    samples: Iterable[Sample], groups: Collection[str] | None = None, without: Collection[str] = ()
) -> list[Sample]:
    """Return the samples of some groups (all if None) that are not in the groups `without`.

    Raises:
        DataError: nothing is left.
    """
    samples = list(samples)
    chosen = [s for s in samples if (groups is None or s.group in groups) and s.group not in without]
    if not chosen:
        raise DataError(
            f"no samples in groups {groups} without {list(without)}; the data set has the groups "
            f"{sorted({sample.group for sample in samples})}"
        )
    return chosen


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

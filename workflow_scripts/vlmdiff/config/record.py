"""One line of a samples file: its keys, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlmdiff.runtime.reading import CONTROL, DataError, name_problem

LONGEST_SHOWN = 120
# `coco:139`: who gives the number, and the number.
PUBLIC_ID = re.compile(r"[a-z][a-z0-9_]*:\S+")


def check_line(text: str) -> str:
    """Refuse control characters in what becomes a name in tables and figures."""
    if CONTROL.search(text):
        raise ValueError("expected one line of text without control characters")
    return text


Line = Annotated[str, AfterValidator(check_line)]


class Record(BaseModel):
    """One question, statement or document; further keys of the line are kept as attributes.

    Attributes:
        sample_id: unique in the data set.
        image: path relative to the data set's folder, or None.
        prompt: what the user asks; for text corpora the document itself.
        answer: expected first word of the answer, one of `choices`.
        choices: all possible answers.
        group: relation or kind of question.
        chat: whether the prompt is put into the model's chat template; False for documents.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    sample_id: Line = Field(min_length=1)
    image: str | None = None
    prompt: str = Field(min_length=1)
    answer: Line | None = None
    choices: list[Line] | None = None
    group: Line = Field(min_length=1)
    chat: bool = True

    @model_validator(mode="after")
    def answer_is_a_choice(self) -> Record:
        """Choices are distinct, at least two, and hold the answer."""
        if self.choices is None:
            return self
        if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
            raise ValueError(f"choices: expected at least two different answers, found {self.choices}")
        if self.answer is not None and self.answer not in self.choices:
            raise ValueError(f"answer: found '{self.answer}', expected one of the choices {self.choices}")
        return self

    @model_validator(mode="after")
    def image_is_relative(self) -> Record:
        """Images lie within the data set's folder, so that the folder can be moved."""
        if self.image is not None and (problem := name_problem(self.image)):
            raise ValueError(f"image: {problem}, found {self.image!r}")
        return self

    @model_validator(mode="after")
    def image_id_is_public(self) -> Record:
        """A picture has one id in every data set; a bare number is another picture in another source."""
        value = (self.model_extra or {}).get("image_id")
        if value is not None and not (isinstance(value, str) and PUBLIC_ID.fullmatch(value)):
            raise ValueError(
                f"image_id: found {value!r:.{LONGEST_SHOWN}}, expected SOURCE:ID such as 'coco:139', the "
                "same for the same picture in every data set; put the source before it, or rename the key"
            )
        return self


Kind = TypeVar("Kind", bound=Record)


def checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Make a record of plain values.

    Args:
        kind: the class to make.
        values: keys of the line.

    Raises:
        DataError: naming every key that is wrong, and what was found.
    """
    try:
        return kind.model_validate(values)
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

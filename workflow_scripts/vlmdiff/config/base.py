"""What every section of the configuration shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import core_schema

# Names become folders, and words of the report, where an underscore at the end would be a link.
LONGEST_NAME = 64
NAME_PATTERN = r"^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
TokenType = Literal["text", "image"]


def writable(text: str) -> str:
    """Name halves of characters by their numbers: no message can hold them."""
    return text.encode(errors="backslashreplace").decode()


def each_once(values: list[Any]) -> list[Any]:
    """Refuse a list that names something twice, which would be made, told or counted twice.

    Raises:
        ValueError: naming what is doubled.
    """
    if doubled := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(
            f"found {', '.join(doubled)} more than once, expected each once; leave the others out"
        )
    return values


# For a list in a section, beside its type.
Distinct = AfterValidator(each_once)


class Section(BaseModel):
    """A section of the configuration: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def params(self, *exclude: str) -> dict[str, Any]:
        """Return plain values for a rule's params, without the keys that do not concern the rule."""
        return self.model_dump(mode="json", exclude=set(exclude))


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Percentage = Annotated[float, Field(gt=0.0, lt=100.0)]
# Counts become 64-bit integers, and sums of them must too.
Count = Annotated[int, Field(ge=1, le=2**62)]


class OrNone:
    """Marks a section that can be left out with the word `none`, in any case, or with YAML's null."""

    def __init__(self, empty: Callable[[], Any] = lambda: None) -> None:
        """Keep what stands for a section that is left out."""
        self.empty = empty

    def value_of(self, value: Any) -> Any:
        """Return the section as it is written, or what stands for it."""
        word = isinstance(value, str) and value.strip().lower() == "none"
        return self.empty() if word or value is None else value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Replace the word before the section is checked."""
        return core_schema.no_info_before_validator_function(self.value_of, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        """Let editors take the word too."""
        return {"anyOf": [handler(schema), {"enum": ["none", None]}]}


Sorted = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(sorted(set(names))))]


class GroupsOf(Section):
    """Groups of a data set in the place of its name; `lowered` makes them a subset."""

    dataset: Name = Field(description="The data set.")
    groups: Sorted | None = Field(None, description="Only these groups; all if left out.")
    without: Sorted = Field((), description="Not these groups.")
    samples: Count | None = Field(None, description="At most this many samples.")


# What users write; when the schema sees it, groups have become the name of a subset.
DatasetName = Annotated[
    Name, WithJsonSchema({"anyOf": [TypeAdapter(Name).json_schema(), GroupsOf.model_json_schema()]})
]

"""What is looked at: a published checkpoint of every family, and a published dictionary of every format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from vlmdiff.config.families import MODEL_TYPES
from vlmdiff.config.supported import FAMILY_FACTS, FORMAT_FACTS, Example
from vlmdiff.dictionaries.source import FILES


class RowError(ValueError):
    """A row cannot be understood; the message names it."""


@dataclass(frozen=True)
class Row:
    """One published checkpoint or dictionary.

    Attributes:
        name: of the row, unique.
        kind: `family` or `format`.
        reads: the family or the format.
        example: where it lies.
        peer: whether another library reads the same files.
    """

    name: str
    kind: str
    reads: str
    example: Example
    peer: bool = True

    def plain(self) -> dict[str, Any]:
        """Return plain values, for a look in another process."""
        return asdict(self)


def known_rows() -> Iterator[Row]:
    """Yield the examples of `vlmdiff.config.supported`."""
    for family, facts in FAMILY_FACTS.items():
        yield Row(family, "family", family, facts.example, facts.peer)
    for name, facts in FORMAT_FACTS.items():
        if facts.example is not None:
            peer = facts.example.release is not None
            yield Row(name, "format", name, facts.example, peer)


def read_rows(file: Path) -> list[Row]:
    """Read rows of one's own: a list of mappings with `family` or `format`, `repository`, and what is known.

    Raises:
        RowError: a row has another form, or a name twice.
    """
    found = yaml.safe_load(file.read_text())
    if not isinstance(found, list):
        raise RowError(f"{file}: found {type(found).__name__}, expected a list of rows")
    rows = [row_of(values, f"{file}: row {number}") for number, values in enumerate(found, start=1)]
    if len({row.name for row in rows}) < len(rows):
        raise RowError(f"{file}: two rows have one name; give each a `name` of its own")
    return rows


def row_of(values: Any, place: str) -> Row:
    """Read one row.

    Raises:
        RowError: naming its place and what is wrong.
    """
    known = {field.name for field in fields(Example)}
    if not isinstance(values, Mapping) or not isinstance(values.get("repository"), str):
        raise RowError(f"{place}: expected a mapping with `repository: OWNER/NAME`, found {values!r}")
    if unknown := sorted(set(values) - known - {"name", "family", "format"}):
        raise RowError(f"{place}: unknown keys {unknown}; known are {sorted(known)}")
    kinds = [kind for kind in ("family", "format") if kind in values]
    if len(kinds) != 1:
        raise RowError(f"{place}: expected `family` or `format`, found {sorted(values)}")
    reads, allowed = values[kinds[0]], MODEL_TYPES if kinds == ["family"] else FILES
    if reads not in allowed:
        raise RowError(f"{place}: {kinds[0]} is {reads!r}, expected one of {sorted(allowed)}")
    name = str(values.get("name", reads))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RowError(f"{place}: name is {name!r}, expected letters, digits, dots and dashes")
    example = Example(**{"gigabytes": 0.0, **{key: values[key] for key in known & set(values)}})
    if kinds == ["family"]:
        peer = FAMILY_FACTS[reads].peer if reads in FAMILY_FACTS else True
    else:
        peer = reads == "saelens" or example.release is not None
    return Row(name, kinds[0], reads, example, peer)

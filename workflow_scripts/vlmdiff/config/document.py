"""Write the configuration's keys as Markdown: `python -m vlmdiff.config.document` renews the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vlmdiff.config.schema import Config

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "configure" / "configuration.md"
INTRODUCTION = """# Configuration

One YAML file describes one experiment. `config/config.yaml` is the built-in world and the default; name
another with `--configfile`, which replaces the default as a whole. Single keys can be set with
`--config 'seed=1'`. Unknown keys are refused before anything runs, and so are paths of models, dictionaries
and data sets that lead nowhere (unless a rule makes them), and targets that nothing makes. Keys without a
default are needed.
This page is generated from the schema (`python -m vlmdiff.config.document`).
"""


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section classes inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from sections_in(part)


def nested_key(key: str, annotation: Any) -> str:
    """Name the place of a section: `models.<name>` for mappings, `evaluation.<i>` for lists."""
    text = str(annotation)
    if "dict[" in text:
        return f"{key}.<name>"
    return f"{key}.<i>" if "list[" in text else key


def default_of(field: FieldInfo) -> str:
    """Write a field's default, shortly."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel) or (isinstance(value, dict) and value):
        return "see below"
    return f"`{value}`"


def type_name(annotation: Any) -> str:
    """Write a type in words: `A or None` for a union, what is annotated without its constraints."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(parts[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in parts)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, parts))
    if annotation is NoneType:
        return "None"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, parts))}]" if parts else name


def type_of(field: FieldInfo) -> str:
    """Write a field's type in words that fit a table cell."""
    return "section" if list(sections_in(field.annotation)) else type_name(field.annotation)


def describe(section: type[BaseModel], key: str) -> Iterator[str]:
    """Yield the chapter of a section, then those of the sections inside it."""
    rows, inner = [], []
    for name, field in section.model_fields.items():
        path = f"{key}.{name}" if key else name
        rows.append(f"| `{path}` | {type_of(field)} | {default_of(field)} | {field.description or ''} |")
        inner += [(part, nested_key(path, field.annotation)) for part in sections_in(field.annotation)]
    title = (section.__doc__ or "").strip().splitlines()[0]
    yield "\n".join(
        [f"## `{key}`" if key else "## Top level", title, "", "| key | value | default | meaning |"]
    )
    yield "\n".join(["|---|---|---|---|", *rows, ""])
    for part, path in inner:
        yield from describe(part, path)


def page() -> str:
    """Write the whole page."""
    return INTRODUCTION + "\n" + "\n".join(describe(Config, ""))


if __name__ == "__main__":
    DOCUMENT.write_text(page())

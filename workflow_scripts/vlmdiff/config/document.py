"""Write the configuration's keys for readers and editors: `python -m vlmdiff.config.document` renews both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vlmdiff.config.editor import SCHEMA, text
from vlmdiff.config.places import ROOT
from vlmdiff.config.resources import NEEDS, SMALL
from vlmdiff.config.schema import Config

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "configure" / "configuration.md"
INTRODUCTION = """# Configuration

One YAML file describes one experiment. `config/config.yaml` is the built-in world and the default; name
another with `--configfile`, which replaces the default as a whole. Unknown keys are refused before anything
runs, and so are paths that lead nowhere and targets that nothing makes:
[safety](../run/safety.md#before-anything-runs) lists all that is refused. Every message names
the key, and the file and line where it was written. Keys without a default are needed, unless they follow
from `data` ([your own model](../start/your_own_model.md#what-was-derived)).

This page and `config/schema.json` are generated (`python -m vlmdiff.config.document`). With the schema,
editors complete keys and mark mistyped ones. The first line of a config names the
schema, by its path from the config's folder:
`# yaml-language-server: $schema=schema.json`.

## Several files

A config can hold only what differs from another one, which it names:

```yaml
extends: llava_more.yaml
experiment: fewer_samples
datasets:
  vqa_train: { samples: 500 }
comparisons: ~
```

- `extends` names a file, or a list of files of which each is laid over those before it. A file is looked for
  in the folder of the file that names it, in the working directory, and in the workflow's own `config/`.
  It may extend further files.
- Sections are merged key by key. Lists and single values are replaced as a whole.
- A key that is null (`~`) is left out: nothing is inherited for it, and its default holds.
- `extends: false` in a section replaces the section as a whole: nothing is inherited in it. Use it for an
  entry of another kind, such as a published dictionary in the place of a trained one.
- `data` over a config of other data is refused; the message ends with the lines that clear what names these.

`--configfile FIRST SECOND` lays the second file over the first one. `--config` lays single keys over all
files. Two underscores lead into a section, because Snakemake takes no dots there:

```sh
snakemake -n --config seed=1 ablation__candidates=50 dictionaries__base__steps=100
snakemake -n --configfile config/llava_more.yaml mine.yaml --config layers='[15]' comparisons=
```

Values are read as YAML. An empty value leaves a key out. A key of a section that does not exist, such as
`dictionaries__bse__steps`, is refused. A name that itself holds two underscores is set in its section:
`--config 'models={a__b: {chat: false}}'`. Within one file, YAML's own anchors save repetition, as they do in
`config/config.yaml`.
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


def row(*cells: str) -> str:
    """Write a row of a table, in whose cells a bar or a new line would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "\\n") for cell in cells) + " |"


def describe(section: type[BaseModel], key: str, told: set[tuple[str, type]]) -> Iterator[str]:
    """Yield the chapter of a section, then those of the sections inside it.

    Args:
        section: its class.
        key: its place.
        told: places and classes that have a chapter; several kinds of an entry share some.
    """
    if (key, section) in told:
        return
    told.add((key, section))
    rows, inner = [], []
    for name, field in section.model_fields.items():
        path = f"{key}.{name}" if key else name
        rows.append(row(f"`{path}`", type_of(field), default_of(field), field.description or ""))
        inner += [(part, nested_key(path, field.annotation)) for part in sections_in(field.annotation)]
    title = (section.__doc__ or "").strip().splitlines()[0]
    heading = f"## `{key}`" if key else "## Top level"
    yield "\n".join(
        [heading, title, "", row("key", "value", "default", "meaning"), "|---|---|---|---|", *rows, ""]
    )
    for part, path in inner:
        yield from describe(part, path, told)


def needs() -> str:
    """Write the chapter on what each rule asks of the machine."""
    memory, minutes = SMALL
    rows = [row(f"`{rule}`", str(mb), str(time)) for rule, (mb, time) in NEEDS.items()]
    return "\n".join(
        [
            "## `resources`, where nothing is said",
            "What suits the built-in world. Every other rule asks for "
            f"{memory} MB and {minutes} minutes. A number grows by half with every retry.",
            "",
            row("rule", "mem_mb", "runtime (minutes)"),
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def page() -> str:
    """Write the whole page."""
    return INTRODUCTION + "\n" + "\n".join([*describe(Config, "", set()), needs()])


if __name__ == "__main__":
    # An installed library has no pages beside it.
    if ROOT is None:
        print(page(), end="")
    else:
        DOCUMENT.write_text(page())
        SCHEMA.write_text(text())

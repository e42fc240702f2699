"""Write the page of what can be read: `python -m vlmdiff.dictionaries.document` renews it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmdiff.config.document import row
from vlmdiff.config.families import BOTH_WAYS, MODEL_TYPES
from vlmdiff.config.places import ROOT
from vlmdiff.config.supported import FAMILY_FACTS, FORMAT_FACTS, Example
from vlmdiff.dictionaries.source import FILES, OPTIONAL
from vlmdiff.hub.fetch import PAGES

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "configure" / "supported.md"
INTRODUCTION = """# What can be read

Every [family of models](model_families.md) and every [format of dictionaries](import_dictionary.md), with
the tests that compare it with other code. This page is generated from `vlmdiff/config/supported.py`
(`python -m vlmdiff.dictionaries.document`).

The tests build tiny files in the published layouts. Whether the published ones are read as well,
`make published` tells where there is a network ([how](../develop/published.md)). It fetches these examples.
"""
FAMILIES = """## Families of models

A sample has one picture or none. A list of several pictures is refused when samples are read, and no key of a
sample stands for a video.
"""
FORMATS = """## Formats of dictionaries

`s` is the factor on the residual stream `x` before the encoder, and `n_i` the norm of a feature's decoder row
([conventions](import_dictionary.md#conventions)).
"""
UNSEEN = "not confirmed"


def table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Write a table."""
    return "\n".join([row(*header), "|" + "---|" * len(header), *(row(*cells) for cells in rows), ""])


def code(names: Sequence[str]) -> str:
    """Write names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)


def example(found: Example | None) -> str:
    """Write a published example: a link, its file, its size, and what is to be known before."""
    if found is None:
        return "none is known"
    marks = [f"{found.gigabytes:g} GB", *(["gated"] if found.gated else [])]
    marks += [] if found.seen else [UNSEEN]
    place = f"[{found.repository}]({PAGES['model']}/{found.repository})"
    return f"{place}{f', `{found.file}`' if found.file else ''} ({', '.join(marks)})"


def family_rows() -> Iterator[Sequence[str]]:
    """Yield the row of each family."""
    for family, facts in sorted(FAMILY_FACTS.items()):
        yield (
            f"`{family}`",
            code(MODEL_TYPES[family]) or "decoders without a vision tower",
            example(facts.example),
            facts.tiles,
            facts.several,
            facts.video,
            facts.heads,
            "not flash" if family in BOTH_WAYS else "any",
            code([Path(file).name for file in facts.tests]),
        )


def files_of(name: str) -> str:
    """Write of which files a format's dictionary consists."""
    needed = code(FILES[name]) or "the file itself"
    optional = OPTIONAL.get(name, ())
    return f"{needed}, {code(optional)} if it is there" if optional else needed


def format_rows() -> Iterator[Sequence[str]]:
    """Yield the row of each format."""
    for name, facts in sorted(FORMAT_FACTS.items()):
        yield (
            f"`{name}`",
            files_of(name),
            facts.activation,
            facts.subtracts,
            facts.scale,
            example(facts.example),
            facts.reference,
            code([Path(file).name for file in facts.tests]),
        )


def page() -> str:
    """Write the whole page."""
    families = ("family", "`model_type`", "smallest example", "tiles", "several pictures", "video")
    formats = ("format", "files beneath `file`", "active", "`b_dec` off the input", "scale `s`")
    parts = [
        INTRODUCTION,
        FAMILIES,
        table((*families, "heads", "attention", "tests"), family_rows()),
        FORMATS,
        table((*formats, "example", "compared with", "tests"), format_rows()),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    # An installed library has no pages beside it.
    print(page(), end="") if ROOT is None else DOCUMENT.write_text(page())

"""Write the contracts of tables: `python -m vlmdiff.tables.document` renews docs/understand/formats.md."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pyarrow as pa

from vlmdiff.config.places import ROOT
from vlmdiff.tables import (
    activations,
    causal,
    costs,
    data,
    explorer,
    features,
    labels,
    models,
    scoreboard,
    world,
)

HEADING = "## Tables\n"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "understand" / "formats.md"
NAMES = {"string": "text", "int64": "integer", "double": "float", "bool": "true/false"}


def contracts(module: ModuleType) -> dict[str, pa.Schema]:
    """Return the contracts that a module defines, by name."""
    return {name: value for name, value in vars(module).items() if isinstance(value, pa.Schema)}


def describe(name: str, schema: pa.Schema) -> str:
    """Write one contract as a heading, its title and a table of columns."""
    rows = [
        f"| `{field.name}` | {NAMES[str(field.type)]} | {field.metadata[b'meaning'].decode()} |"
        for field in schema
    ]
    title = schema.metadata[b"title"].decode()
    return "\n".join(
        [f"### {name.lower()}", title, "", "| column | type | meaning |", "|---|---|---|", *rows]
    )


def tables_chapter() -> str:
    """Write the chapter on tables."""
    parts = [
        describe(name, schema)
        for module in (
            data,
            activations,
            models,
            features,
            causal,
            labels,
            explorer,
            world,
            scoreboard,
            costs,
        )
        for name, schema in contracts(module).items()
    ]
    intro = (
        "Parquet for one row per feature, CSV for what people read. This chapter is generated from the "
        "contracts in the code (`python -m vlmdiff.tables.document`).\n"
    )
    return f"{HEADING}{intro}\n" + "\n\n".join(parts) + "\n"


def renewed(text: str) -> str:
    """Return the document with its chapter on tables made anew."""
    return text.partition(HEADING)[0].rstrip() + "\n\n" + tables_chapter()


if __name__ == "__main__":
    # An installed library has no pages beside it.
    print(tables_chapter(), end="") if ROOT is None else DOCUMENT.write_text(renewed(DOCUMENT.read_text()))

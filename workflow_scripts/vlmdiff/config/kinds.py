"""Kinds of data sets, and keys of one kind that were written at another."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from vlmdiff.config.base import writable

PUBLIC = ("vqav2", "gqa", "vsr", "whatsup", "cvbench", "text")
KINDS = ("folder", *PUBLIC, "subset")
OF_WORLD = ("general", "spatial", "spatial_open", "mixed")
LONGEST_SHOWN = 120
# Where each kind's samples come from.
PLACES = {"folder": "path", "subset": "of"} | dict.fromkeys(PUBLIC, "source")
SHIPPED = "; VSR's annotations are shipped as resources/vsr_random"


def check_kind(values: Any) -> Any:
    """Refuse an entry of a data set whose kind is unknown, or that says where another kind comes from.

    Args:
        values: the entry, not yet checked.

    Raises:
        ValueError: naming the key, what was found and what to write.
    """
    if not isinstance(values, dict):
        return values
    kind = values.get("kind", "folder")
    if kind not in KINDS:
        shown = writable(str(kind)[:LONGEST_SHOWN])
        near = get_close_matches(shown.lower().replace("_", "").replace("'", ""), KINDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        hint = "; it is one of the built-in world: write it in `world.datasets`" if kind in OF_WORLD else hint
        raise ValueError(f"kind: found '{shown}', expected one of {', '.join(map(repr, KINDS))}{hint}")
    if PLACES[kind] not in values:
        raise ValueError(missing_place(kind, values))
    return values


def missing_place(kind: str, values: Mapping[str, Any]) -> str:
    """Say that an entry does not tell where its samples come from, and what may be meant."""
    wanted, others = PLACES[kind], [one for one in ("path", "source", "of") if one in values]
    if not others:
        return f"{wanted}: missing; write where the samples come from{SHIPPED if kind == 'vsr' else ''}"
    found = f"found `{others[0]}: {writable(str(values[others[0]])[:LONGEST_SHOWN])}`"
    if "kind" in values:
        return f"{wanted}: {found} with kind '{kind}', which is read from `{wanted}`; rename it"
    if others[0] == "source":
        kinds = " or ".join(f"`kind: {one}`" for one in PUBLIC)
        return f"kind: missing, and {found}; write {kinds} with it, or `path` for a folder of your own"
    return f"kind: missing, and {found}; write `kind: subset` with it"

"""Keys and names as the user wrote them, looked at before anything is derived from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from vlmdiff.config.base import LONGEST_NAME, NAME_PATTERN, Name
from vlmdiff.config.keys import unknown
from vlmdiff.config.plain import section
from vlmdiff.config.schema import Config
from vlmdiff.config.world import WorldConfig

NAME_RULE = "expected letters, digits and underscores; a letter first, no underscore last"
# Sections whose entries the user names, each with what one of them is.
ONE_OF = {
    "models": "model", "datasets": "dataset", "dictionaries": "dictionary", "controls": "control",
    "comparisons": "comparison", "concepts": "concept",
}  # fmt: skip
SECTIONS = [
    (*before, key)
    for before, whole in (((), Config), (("world",), WorldConfig))
    for key, field in whole.model_fields.items()
    if get_origin(field.annotation) is dict and get_args(field.annotation)[0] == Name
]


def misnamed(values: Any) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of keys that there are not, and of names that cannot be any.

    Whatever else is wrong may follow from them.

    Args:
        values: plain values of the configuration, as the user wrote them.
    """
    for key in values if isinstance(values, dict) else ():
        if not isinstance(key, str):
            yield str(key), f"{read_otherwise(key)}, expected keys that are text; remove it"
        elif key not in Config.model_fields:
            yield str(key), f"{key}: {unknown(key, Config.model_fields)}"
    for keys in SECTIONS:
        path = ".".join(keys)
        for name in section(values, *keys):
            if (problem := name_problem(name, keys[-1])) is not None:
                yield f"{path}.{name}", f"{path}: {problem}"
    for path in no_texts(values):
        yield (
            path,
            f"{path}: found NUL or half a character, expected a text that can be a file's; write it again",
        )


def no_texts(values: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of texts that no file can be called: with NUL, or half of a surrogate pair."""
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values if isinstance(values, list) else ())
    )
    for key, value in inner:
        yield from no_texts(value, f"{path}.{key}" if path else str(key))
    if isinstance(values, str) and ("\0" in values or any("\ud800" <= one <= "\udfff" for one in values)):
        yield path


def name_problem(name: Any, kind: str) -> str | None:
    """Say why a key cannot be a name, and what to write; None if it can be one.

    Args:
        name: the key, as YAML reads it.
        kind: the section in which it stands.
    """
    if name is None or isinstance(name, bool):
        other = "call it null_text" if (name, kind) == (None, "dictionaries") else "rename it"
        return f"{read_otherwise(name)}; put it in quotes, or {other}"
    if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) and len(name) <= LONGEST_NAME:
        return None
    word = re.sub(r"[^A-Za-z0-9]+", "_", str(name)).strip("_")
    word = word if word[:1].isalpha() or not word else f"{ONE_OF[kind]}_{word}"
    remedy = f"call it {word[:LONGEST_NAME].rstrip('_')}" if word else "rename it"
    return f"found the name '{name}', {NAME_RULE}; at most {LONGEST_NAME} of them; {remedy}"


def read_otherwise(key: Any) -> str:
    """Say what YAML made of a key that is no text."""
    if key is None:
        return "found the key null, which YAML reads as nothing"
    if isinstance(key, bool):
        words = "true, yes or on" if key else "false, no or off"
        return f"found the key {words}, which YAML reads as a truth value"
    return f"found the key {key}, which YAML reads as a {type(key).__name__}"

"""Turn a parsed config file into a `Config`, or into one message that says what to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from vlmdiff.config.local_checkpoints import missing_family, with_family
from vlmdiff.config.schema import Config

LONGEST_SHOWN = 120
# What a problem of no single key is told of.
WHOLE = "config"
# Checks across sections begin their message with the key that is wrong.
KEY = re.compile(r"(\w+(?:\.\w+)*): ")


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key, what was found and what is allowed."""


def written_key(loc: tuple[str | int, ...], values: Any) -> str:
    """Return the place of a problem as the user wrote it, without the names of the kinds of a section."""
    parts: list[str] = []
    for position, part in enumerate(loc):
        known = isinstance(values, dict) and part in values
        listed = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if known or listed:
            values = values[part]
        elif position + 1 < len(loc) and isinstance(values, dict):
            continue
        parts.append(str(part))
    return ".".join(parts) or WHOLE


def place(line: str, where: Callable[[str], str]) -> str:
    """Return in words where the key was written that a problem's line begins with; nothing if it has none."""
    keys = []
    while match := KEY.match(line):
        keys.append(match[1])
        line = line[match.end() :]
    key = ".".join(key for key in keys if key != WHOLE)
    return where(key) if key else ""


def explain(error: ValidationError, values: Any, where: Callable[[str], str] = lambda key: "") -> str:
    """Write a validation error as one line a problem: key, cause, what was found, and where.

    Args:
        error: the error.
        values: what was checked.
        where: tells in words where a dotted key was written.
    """
    lines = []
    for problem in error.errors():
        key = written_key(problem["loc"], values)
        cause = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing" and key.startswith("models.") and key.endswith(".family"):
            cause = missing_family(problem["input"])
        if problem["type"] == "extra_forbidden":
            cause = (
                "unknown key; see config/config.yaml and docs/configure/configuration.md for the known ones"
            )
        if problem["type"] == "invalid_key":
            cause = 'keys are text, and YAML reads null, yes, no or a number otherwise; write it as "null"'
        if problem["type"] == "union_tag_invalid":
            tag, allowed = (problem["ctx"][name] for name in ("tag", "expected_tags"))
            cause = f"kind: found '{tag[:LONGEST_SHOWN]}', expected one of {allowed}"
        if key.endswith(".extends"):
            cause = "a file extends another one, a section cannot; `extends: false` in it inherits nothing"
        value = repr(problem["input"])
        facts = [f"found: {value}"] if problem["loc"] and len(value) < LONGEST_SHOWN else []
        facts += filter(None, [place(f"{key}: {cause}", where)])
        lines.append(f"  {key}: {cause}" + (f" ({'; '.join(facts)})" if facts else ""))
    return "The configuration is not valid:\n" + "\n".join(lines)


def load_config(values: dict[str, Any], where: Callable[[str], str] = lambda key: "") -> Config:
    """Check plain values against the schema.

    Args:
        values: of the whole configuration.
        where: tells in words where a dotted key was written, for messages.

    Raises:
        ConfigError: naming every key that is wrong, what was found and what is allowed.
    """
    try:
        return Config.model_validate(with_family(values))
    except ValidationError as error:
        raise ConfigError(explain(error, values, where)) from None

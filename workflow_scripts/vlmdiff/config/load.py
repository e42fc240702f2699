"""Turn a parsed config file into a `Config`, or into one message that says what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from vlmdiff.config.base import NAME_PATTERN
from vlmdiff.config.derive import derive, of_concepts
from vlmdiff.config.local_checkpoints import missing_family, with_family
from vlmdiff.config.lowered import as_written, lowered
from vlmdiff.config.schema import Config
from vlmdiff.config.subsets import counted

LONGEST_SHOWN = 120
NOT_VALID = "The configuration is not valid:"
# What a problem of no single key is told of.
WHOLE = "config"
# Checks across sections begin their message with the key that is wrong.
KEY = re.compile(r"(\w+(?:\.\w+)*): ")


# What pydantic says of values that are of another kind, in words of the configuration.
PLAIN = {
    "model_type": "expected a section (`key: value` lines), or `none` where it may be left out",
    "dict_type": "expected a section (`key: value` lines)",
    "list_type": "expected a list",
    "string_type": "expected text; YAML reads on, off, yes, no and numbers otherwise: put it in quotes",
    "string_pattern_mismatch": "expected letters, digits and underscores; a letter first, no underscore last",
}


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
        if problem["type"] != "string_pattern_mismatch" or problem["ctx"]["pattern"] == NAME_PATTERN:
            cause = PLAIN.get(problem["type"], cause)
        if key == WHOLE and KEY.match(cause):
            # A check across sections names its key itself.
            lines.append("  " + cause + (f" ({found})" if (found := place(cause, where)) else ""))
            continue
        if key.endswith(".extends"):
            cause = "a file extends another one, a section cannot; `extends: false` in it inherits nothing"
        value = repr(problem["input"])
        facts = [f"found: {value}"] if problem["loc"] and len(value) < LONGEST_SHOWN else []
        facts += filter(None, [place(f"{key}: {cause}", where)])
        lines.append(f"  {key}: {cause}" + (f" ({'; '.join(facts)})" if facts else ""))
    return "\n".join([NOT_VALID, *lines])


def load_config(
    values: dict[str, Any], where: Callable[[str], str] = lambda key: "", name: str | None = None
) -> Config:
    """Fill in what plain values leave out, and check them against the schema.

    Args:
        values: of the whole configuration.
        where: tells in words where a dotted key was written, for messages.
        name: of the experiment, if the values do not name it.

    Raises:
        ConfigError: naming every key that is wrong, what was found and what is allowed.
    """
    try:
        derived = derive(with_family(values), name)
        of_concept = of_concepts(values, derived)
        values, written = lowered(derived)
    except ValueError as error:
        raise ConfigError("\n".join([NOT_VALID, *told([str(error)], where)])) from None

    written |= of_concept

    def place_of(key: str) -> str:
        return where(as_written(key, written))

    try:
        return with_counts(Config.model_validate(values), place_of).lowered_from(written)
    except ValidationError as error:
        raise ConfigError(as_written(explain(error, values, place_of), written)) from None
    except ConfigError as error:
        raise ConfigError(as_written(str(error), written)) from None


def told(problems: Iterable[str], where: Callable[[str], str]) -> list[str]:
    """Return problems that begin with a key, each with the place where that was written."""
    places = {problem: place(problem, where) for problem in problems}
    return [f"  {problem}" + (f" ({found})" if found else "") for problem, found in places.items()]


def with_counts(config: Config, where: Callable[[str], str]) -> Config:
    """Fill in how many samples there are where the configuration leaves that open.

    Args:
        config: the configuration.
        where: tells in words where a dotted key was written, for messages.

    Raises:
        ConfigError: a samples file is wrong or not there, or a subset is empty.
    """
    try:
        changes = counted(config.datasets | config.world_datasets())
    except ValueError as error:
        raise ConfigError("\n".join([NOT_VALID, *told(error.args, where)])) from None
    entries = {
        name: entry.model_copy(update=changes.get(name, {})) for name, entry in config.datasets.items()
    }
    return config.model_copy(update={"datasets": entries})

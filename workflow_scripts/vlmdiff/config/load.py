"""Turn a parsed config file into a `Config`, or into one message that says what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vlmdiff.config.base import NAME_PATTERN
from vlmdiff.config.derive import derive, of_concepts
from vlmdiff.config.keys import known_keys, mistyped, unknown
from vlmdiff.config.local_checkpoints import missing_family, with_family
from vlmdiff.config.lowered import as_written, lowered
from vlmdiff.config.names import NAME_RULE, misnamed, read_otherwise
from vlmdiff.config.releases import resolved
from vlmdiff.config.schema import Config
from vlmdiff.config.subsets import counted

LONGEST_SHOWN = 120
NOT_VALID = "The configuration is not valid:"
# What a problem of no single key is told of.
WHOLE = "config"
# Problems of a value that is there: what follows its own key in pydantic's place names a kind.
OF_A_VALUE = ("value_error", "string_type")
# Checks across sections begin their message with the key that is wrong.
KEY = re.compile(r"(\w+(?:\.\w+)*): ")


# What pydantic says of values that are of another kind, in words of the configuration.
PLAIN = {
    "model_type": "expected a section (`key: value` lines), or `none` where it may be left out",
    "dict_type": "expected a section (`key: value` lines)",
    "list_type": "expected a list",
    "string_type": "expected text; YAML reads on, off, yes, no and numbers otherwise: put it in quotes",
    "string_pattern_mismatch": NAME_RULE,
}


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key, what was found and what is allowed."""


def written_key(problem: ErrorDetails, values: Any) -> str:
    """Return the place of a problem as the user wrote it, without the names of the kinds of a section."""
    parts: list[str] = []
    for position, part in enumerate(loc := problem["loc"]):
        known = isinstance(values, dict) and part in values
        listed = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if known or listed:
            values = values[part]
        elif isinstance(values, dict) and (position + 1 < len(loc) or problem["type"] in OF_A_VALUE):
            continue
        elif isinstance(part, str) and not isinstance(values, dict) and not part.startswith("["):
            # Of a value that may be a list or a text.
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


def is_said(key: str, said: Any) -> bool:
    """Tell whether a dotted key is the user's own, and not one that was derived."""
    for part in key.split("."):
        inner = dict(enumerate(said)) if isinstance(said, list) else said
        inner = {str(name): value for name, value in inner.items()} if isinstance(inner, dict) else {}
        if part not in inner:
            return key == WHOLE
        said = inner[part]
    return True


def causes(problems: Sequence[Any], values: Any, said: Any) -> list[Any]:
    """Return problems without those that follow from others.

    A key that is written wrong is missing, too; a model's family is not known without its path; and what is
    wrong with derived keys comes from the keys that they were derived from.

    Args:
        problems: what pydantic found.
        values: what was checked.
        said: what the user wrote of it.
    """
    absent = {place for key in mistyped(problems, Config) for place in (key, family_of_path(key))}
    found = [one for one in problems if one["type"] != "missing" or one["loc"] not in absent]
    own = [one for one in found if one["type"] == "missing" or is_said(written_key(one, values), said)]
    return own or found


def family_of_path(place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the place of the family that a model's path tells; other places as they are."""
    return (*place[:-1], "family") if place[0] == "models" and place[-1] == "path" else place


def explain(error: ValidationError, values: Any, said: Any, where: Callable[[str], str]) -> str:
    """Write a validation error as one line a problem: key, cause, what was found, and where.

    Args:
        error: the error.
        values: what was checked.
        said: what the user wrote of it.
        where: tells in words where a dotted key was written.
    """
    lines = []
    for problem in causes(error.errors(), values, said):
        key = written_key(problem, values)
        cause = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing" and key.startswith("models.") and key.endswith(".family"):
            cause = missing_family(problem["input"])
        if problem["type"] == "extra_forbidden":
            cause = unknown(problem["loc"][-1], known_keys(Config, problem["loc"]))
        if problem["type"] == "invalid_key":
            cause = f"{read_otherwise(problem['input'])}; put it in quotes"
        if problem["type"] != "string_pattern_mismatch" or problem["ctx"]["pattern"] == NAME_PATTERN:
            cause = PLAIN.get(problem["type"], cause)
        if problem["type"] == "string_type" and isinstance(problem["input"], list | Mapping):
            cause = "expected text"
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
    if wrong := {line: where(key) for key, line in misnamed(values)}:
        raise ConfigError(at_places(wrong))
    said = values
    try:
        derived = derive(with_family(resolved(values)), name)
        of_concept = of_concepts(values, derived)
        values, written = lowered(derived)
    except ValueError as error:
        raise ConfigError(at_places(told([str(error)], where))) from None

    written |= of_concept

    def place_of(key: str) -> str:
        return where(as_written(key, written))

    try:
        return with_counts(Config.model_validate(values), place_of).lowered_from(written)
    except ValidationError as error:
        raise ConfigError(as_written(explain(error, values, said, place_of), written)) from None
    except ConfigError as error:
        raise ConfigError(as_written(str(error), written)) from None


def told(problems: Iterable[str], where: Callable[[str], str]) -> dict[str, str]:
    """Return problems that begin with a key, each with the place where that was written."""
    return {problem: place(problem, where) for problem in problems}


def at_places(problems: Mapping[str, str]) -> str:
    """Write a message of problems, each with the place where it was written, if that is known."""
    lines = [f"  {problem}" + (f" ({found})" if found else "") for problem, found in problems.items()]
    return "\n".join([NOT_VALID, *lines])


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
        raise ConfigError(at_places(told(error.args, where))) from None
    entries = {
        name: entry.model_copy(update=changes.get(name, {})) for name, entry in config.datasets.items()
    }
    return config.model_copy(update={"datasets": entries})

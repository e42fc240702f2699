"""Turn a parsed config file into a `Config`, or into one message that says what to change."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from vlmdiff.config.schema import Config

LONGEST_SHOWN = 120


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
    return ".".join(parts) or "config"


def explain(error: ValidationError, values: Any) -> str:
    """Write a validation error as one line a problem: key, cause, what was found."""
    lines = []
    for problem in error.errors():
        key = written_key(problem["loc"], values)
        cause = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            cause = (
                "unknown key; see config/config.yaml and docs/configure/configuration.md for the known ones"
            )
        if problem["type"] == "invalid_key":
            cause = 'keys are text, and YAML reads null, yes, no or a number otherwise; write it as "null"'
        if problem["type"] == "union_tag_invalid":
            tag, allowed = (problem["ctx"][name] for name in ("tag", "expected_tags"))
            cause = f"kind: found '{tag[:LONGEST_SHOWN]}', expected one of {allowed}"
        value = repr(problem["input"])
        found = f" (found: {value})" if problem["loc"] and len(value) < LONGEST_SHOWN else ""
        lines.append(f"  {key}: {cause}{found}")
    return "The configuration is not valid:\n" + "\n".join(lines)


def load_config(values: dict[str, Any]) -> Config:
    """Check plain values against the schema.

    Raises:
        ConfigError: naming every key that is wrong, what was found and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, values)) from None

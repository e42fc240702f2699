"""The JSON schema of a config file: with it editors complete and check a config while it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmdiff.config.schema import Config

SCHEMA = Path(__file__).resolve().parents[3] / "config" / "schema.json"
# Files complete each other, so no file needs all keys.
DROPPED = {"required", "minProperties", "title"}
VALUES = {"enum", "const", "default"}
NULL = {"type": "null"}
EXTENDS = {
    "description": "The config that this one changes, or several in order, each laid over those before it.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"const": False}, NULL],
}
ALONE = {"description": "`false`: this section inherits nothing.", "const": False}


def or_left_out(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that may also be null, which leaves its key out."""
    found = {key: schema[key] for key in ("description", "default") if key in schema}
    kind = {key: value for key, value in schema.items() if key not in found}
    kinds = kind["anyOf"] if set(kind) == {"anyOf"} else [kind]
    return {**found, "anyOf": [one for one in kinds if one != NULL] + [NULL]}


def entries(schemas: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return the schemas of the keys of a section, each after a pattern that holds for all."""
    return {before + name: or_left_out(of_file(part)) for name, part in schemas.items()}


def of_file(schema: Any) -> Any:
    """Return a part of pydantic's schema as it holds for one file.

    No key is required, any may be null, and any section may say `extends: false`.
    """
    if isinstance(schema, list):
        return [of_file(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in VALUES and not isinstance(value, dict):
            found[key] = value
        elif key == "properties":
            found[key] = entries(value)
        elif key == "patternProperties":
            found[key] = entries(value, before="(?!^extends$)")
        elif key == "additionalProperties" and value is not False:
            found[key] = or_left_out(of_file(value))
        elif key == "$defs":
            found[key] = {name: of_file(part) for name, part in value.items()}
        elif key not in DROPPED | VALUES:
            # A file may leave open which one of several kinds its part belongs to.
            found["anyOf" if key == "oneOf" else key] = of_file(value)
    if found.get("type") == "object":
        found.setdefault("properties", {})["extends"] = ALONE
        found.setdefault("additionalProperties", False)
    return found


def json_schema() -> dict[str, Any]:
    """Return the schema of a config file, whole or laid over others."""
    found = of_file(Config.model_json_schema())
    found["properties"]["extends"] = EXTENDS
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "vlmdiff", **found}


def text() -> str:
    """Write the schema as it is published."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"

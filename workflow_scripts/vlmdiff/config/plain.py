"""Plain values of a configuration, as YAML gives them: sections in them, and one laid under another."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]


def section(values: Any, *keys: Any) -> Values:
    """Return a section, or an empty one where it is not there or no section."""
    for key in keys:
        # What a key is looked up by may be any value of the user's.
        values = values.get(key) if isinstance(values, dict) and isinstance(key, str) else None
    return values if isinstance(values, dict) else {}


def under(derived: Values, said: Values) -> Values:
    """Return derived values under what the user said; what is a section in both is merged by key.

    A section of another kind, and shares of parts, stand for themselves.
    """
    merged = derived | said
    for key in derived.keys() & said.keys():
        one, other = derived[key], said[key]
        if isinstance(one, dict) and isinstance(other, dict) and key != "parts" and same_kind(one, other):
            merged[key] = under(one, other)
    return merged


def same_kind(one: Values, other: Values) -> bool:
    """Tell whether two entries say the same of where something comes from, as far as both say it."""
    return all(one.get(key) == other[key] for key in ("kind", "path", "source") if key in other)


def put_under(values: Values, key: str, derived: Values) -> None:
    """Put a derived section under what the user said of it; a word or a list of theirs stays alone."""
    said = values.get(key, {})
    values[key] = under(derived, said) if isinstance(said, dict) else said

"""Keys that a section does not have: which one is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

Place = tuple[str | int, ...]


def meant(key: Any, known: Iterable[str]) -> str | None:
    """Return the known key that is nearest to one that is written wrong; None if none is near."""
    small = {one.lower(): one for one in known}
    near = get_close_matches(str(key).lower().replace("-", "_"), small, n=1)
    return small[near[0]] if near else None


def unknown(key: Any, known: Iterable[str]) -> str:
    """Say that a section has no such key, and which one may be meant."""
    near = meant(key, known)
    if near:
        return f"unknown key; did you mean `{near}`?"
    return "unknown key; see config/config.yaml and docs/configure/configuration.md for the known ones"


def arms(annotation: Any, tag: str | None = None) -> Iterator[tuple[str | None, Any]]:
    """Yield (tag, type) of all that a type may be; the tag of a kind, if it has one."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        own = next((one.tag for one in parts[1:] if isinstance(one, Tag)), tag)
        yield from arms(parts[0], own)
    elif origin in (Union, UnionType):
        for part in parts:
            yield from arms(part, tag)
    else:
        yield tag, annotation


def known_keys(annotation: Any, place: Sequence[str | int]) -> set[str]:
    """Return the keys of the section in which a key stands.

    Args:
        annotation: type of the whole.
        place: of the key, as pydantic tells it: with the kind of an entry where there are several.
    """
    first, *others = place
    found: set[str] = set()
    for tag, one in arms(annotation):
        name = getattr(one, "__name__", None)
        if others and first in (tag, name):
            return known_keys(one, others)
        if isinstance(one, type) and issubclass(one, BaseModel):
            if not others:
                found |= set(one.model_fields)
            elif first in one.model_fields:
                found |= known_keys(one.model_fields[first].annotation, others)
        elif get_origin(one) in (dict, list) and others:
            found |= known_keys(get_args(one)[-1], others)
    return found


def mistyped(problems: Iterable[Any], whole: Any) -> dict[Place, Place]:
    """Return the places of keys that are missing, each with that of the key that was written instead.

    Args:
        problems: what pydantic found.
        whole: the class of what it checked.
    """
    problems = list(problems)
    missing = {one["loc"] for one in problems if one["type"] == "missing"}
    found = {}
    for one in problems:
        if one["type"] == "extra_forbidden":
            *section, key = one["loc"]
            place = (*section, meant(key, known_keys(whole, one["loc"])))
            if place in missing:
                found[place] = one["loc"]
    return found


def first_problem(
    error: ValidationError, whole: type[BaseModel], told: Callable[[Any], str | None] = lambda key: None
) -> tuple[list[str], str, Any]:
    """Return (place, cause, value) of the first thing that is wrong with a section.

    Args:
        error: what pydantic found.
        whole: the section's class.
        told: what to say of an unknown key; None where there is nothing particular to say.
    """
    problems = error.errors()
    instead = mistyped(problems, whole)
    problem = next(one for one in problems if one["loc"] not in instead)
    place, cause = problem["loc"], problem["msg"]
    if problem["type"] == "extra_forbidden":
        cause = told(place[-1]) or unknown(place[-1], known_keys(whole, place))
    return list(map(str, place)), cause, problem["input"]

"""Groups of a data set, written where the name of a data set is expected, become a subset with a name."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from vlmdiff.config.base import LONGEST_NAME, GroupsOf
from vlmdiff.config.keys import first_problem
from vlmdiff.config.world import WorldConfig

# Where data sets are named; `*` stands for every entry. Concepts take groups themselves.
CAUSAL = ("ablation", "heads", "steering")
USES = [f"{section}.{use}_on" for section in CAUSAL for use in ("rank", "report")]
DIFFS = [f"{diff}.{kind}_datasets.*" for diff in ("diff", "comparisons.*") for kind in ("visual", "text")]
PLACES = (
    *(f"{use}.{side}" for use in USES for side in ("target", "control")),
    "heads.dataset",
    "heads.head_means.dataset",
    "evaluation.*.dataset",
    "dictionaries.*.dataset",
    *DIFFS,
)
DIGITS = 6


def lowered(values: Any) -> tuple[Any, dict[str, str]]:
    """Put names of subsets in the place of groups, and declare these subsets.

    Args:
        values: plain values of the configuration; what is malformed is left for the schema to refuse.

    Returns:
        The values, and for each subset that they declare now the key at which it was written.

    Raises:
        ValueError: groups are written wrong; the message names the key.
    """
    values = copy.deepcopy(values)
    declared = (values.get("datasets") or {}) if isinstance(values, dict) else None
    if not isinstance(declared, dict):
        return values, {}
    known = of_world(values) | declared
    names: dict[GroupsOf, str] = {}
    written: dict[str, str] = {}
    for path, holder, key in (found for place in PLACES for found in found_at(values, place.split("."))):
        if not isinstance(holder[key], dict):
            continue
        wanted = read(holder[key], path)
        if wanted == GroupsOf(dataset=wanted.dataset):
            holder[key] = wanted.dataset
            continue
        if wanted not in names:
            names[wanted] = name_of(wanted, {*known, *written})
            written[names[wanted]] = path
            declared[names[wanted]] = entry_of(wanted, known)
        holder[key] = names[wanted]
    return values | ({"datasets": declared} if written else {}), written


def of_world(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data sets of the built-in world, if the configuration uses it."""
    world = values.get("world")
    if not isinstance(world, dict):
        return {}
    datasets = world.get("datasets", WorldConfig().model_dump()["datasets"])
    return dict(datasets) if isinstance(datasets, dict) else {}


def found_at(values: Any, place: Sequence[str], before: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, holder, key) of each value at a place; the value is `holder[key]`."""
    first, *others = place
    if isinstance(values, dict):
        keys = list(values) if first == "*" else [key for key in [first] if key in values]
    else:
        keys = list(range(len(values))) if first == "*" and isinstance(values, list) else []
    for key in keys:
        path = f"{before}{key}"
        if others:
            yield from found_at(values[key], others, f"{path}.")
        else:
            yield path, values, key


def read(values: dict[str, Any], path: str) -> GroupsOf:
    """Check groups of a data set.

    Raises:
        ValueError: naming the key and what is expected.
    """
    try:
        return GroupsOf.model_validate(values)
    except ValidationError as error:
        place, cause, found = first_problem(error, GroupsOf)
        raise ValueError(
            f"{'.'.join([path, *place])}: {cause} (found: {found!r:.120}); expected the name of a data set, "
            "or {dataset: NAME, groups: […], without: […], samples: …}"
        ) from None


def entry_of(wanted: GroupsOf, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a subset."""
    samples = most_samples(wanted.dataset, known) if wanted.samples is None else wanted.samples
    return {
        "kind": "subset",
        "of": wanted.dataset,
        "groups": None if wanted.groups is None else list(wanted.groups),
        "without": list(wanted.without),
        "samples": samples,
    }


def most_samples(name: Any, known: Mapping[str, Any]) -> int | None:
    """Return how many samples a data set has at most; None where that is counted, or cannot be told."""
    most, seen = None, set()
    while isinstance(name, str) and name not in seen and isinstance(entry := known.get(name), dict):
        most = entry.get("samples") if most is None else most
        if (kind := entry.get("kind", "folder")) != "subset":
            return None if kind == "folder" else most
        seen.add(name)
        name = entry.get("of")
    return None


def name_of(wanted: GroupsOf, taken: Container[str]) -> str:
    """Name a subset by its data set and groups; with a digest where that is too long, or taken.

    Args:
        wanted: the subset.
        taken: names of other data sets.
    """
    parts = [wanted.dataset, *wanted.groups] if wanted.groups is not None else [wanted.dataset]
    parts += ["without", *wanted.without] if wanted.without else []
    parts += ["first", str(wanted.samples)] if wanted.samples is not None else []
    words = [re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts]
    name = "_".join(filter(None, words))
    if all(words) and len(name) <= LONGEST_NAME and name not in taken:
        return name
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:DIGITS]
    return f"{name[: LONGEST_NAME - DIGITS - 1].rstrip('_')}_{digest}"


def as_written(message: str, written: dict[str, str]) -> str:
    """Put the keys at which groups were written in the place of the subsets that they became."""
    for name, key in written.items():
        message = re.sub(rf"datasets\.{name}\.of\b", f"{key}.dataset", message)
        message = re.sub(rf"datasets\.{name}\b", key, message)
    return message

"""What a configuration inherits that cannot go with `data`: sections that name other data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from vlmdiff.config.plain import section
from vlmdiff.config.sources import WORLD
from vlmdiff.config.written import Written

DATA = "data"
# Keys by which a section names data, and for each section that follows from `data` those that count in it.
KEYS = frozenset({"dataset", "target", "control", "baseline", "visual_datasets", "text_datasets"})
FOLLOWING: Mapping[str, Collection[str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("dictionaries", "evaluation", "diff", "concepts", "ablation", "heads", "steering"), KEYS
        ),
        "comparisons": ("base", "adapted", "null", "model", "visual_datasets", "text_datasets"),
        "stages": ("grid", "models"),
    }
)


def inherited_problem(below: Written, above: Written, whole: Written) -> str | None:
    """Say which inherited sections name data of their own although there is `data`, and what to paste.

    Args:
        below: what the layers say that `data` is laid over.
        above: what the layer with `data`, and those over it, say.
        whole: all of them together.

    Returns:
        The message, which ends with lines of YAML; None if nothing is inherited that cannot stay.
    """
    if DATA not in above.value or DATA in below.value:
        return None
    names = list(clashing(below, above, whole))
    if not names:
        return None
    files = dict.fromkeys(
        below.value[name].where.partition(", line")[0].removeprefix("in ") for name in names
    )
    cleared = [f"{name}: {clearing(name, below)}" for name in names if name not in above.value]
    inner = [name for name in names if name in above.value]
    told = [
        f"{DATA}: found with {quoted(names)} of {', '.join(files)}, which name other data, expected none of "
        f"them ({whole.value[DATA].where})",
    ]
    if inner:
        told.append(f"write `extends: false` into {quoted(inner)}")
    if cleared:
        told.append("paste these lines next to `data`:")
    return "\n".join(["; ".join(told), *(f"    {line}" for line in cleared)])


def quoted(names: Collection[str]) -> str:
    """Write names of sections."""
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last}" if others else last


def clashing(below: Written, above: Written, whole: Written) -> Iterator[str]:
    """Yield the sections of which something is inherited that names other data; see `inherited_problem`."""
    paths = {
        name: str(section(entry).get("path")) for name, entry in section(whole.plain(), "models").items()
    }
    own = section(above.plain(), "models")
    of_world = {name for name, path in paths.items() if path.startswith(WORLD)}
    always = {"datasets"}
    if own or not of_world:
        always.add("world")
    if own and of_world - own.keys():
        always.add("models")
    for name in (one for one in below.value if is_inherited(one, above, whole)):
        if name in always or named(below.value[name].plain(), FOLLOWING.get(name, ())):
            yield name


def is_inherited(name: str, above: Written, whole: Written) -> bool:
    """Tell whether something of a section comes from below."""
    return name in whole.value and whole.value[name] != above.value.get(name)


def named(value: Any, keys: Collection[str]) -> bool:
    """Tell whether a section has one of some keys, at any depth."""
    if isinstance(value, dict):
        return any(key in keys or named(inner, keys) for key, inner in value.items())
    return isinstance(value, list) and any(named(inner, keys) for inner in value)


def clearing(name: str, below: Written) -> str:
    """Return what to write to inherit nothing of a section; published dictionaries are kept."""
    entries = section(below.plain(), name)
    trained = [key for key, entry in entries.items() if "source" not in section(entry)]
    if name != "dictionaries" or len(trained) == len(entries):
        return "~"
    return f"{{ {', '.join(f'{key}: ~' for key in trained)} }}"

"""What a configuration inherits that cannot go with `data`: sections that name other data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from vlmdiff.config.places import WORLD
from vlmdiff.config.plain import section
from vlmdiff.config.written import Written

DATA = "data"
# Keys by which a section names data, and for each section that follows from `data` those that count in it.
KEYS = frozenset({"dataset", "target", "control", "baseline", "visual_datasets", "text_datasets"})
FOLLOWING: Mapping[str, Collection[str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("dictionaries", "evaluation", "diff", "concepts", "ablation", "heads", "steering"), KEYS
        ),
        "perplexity": ("dataset", "models"),
        "comparisons": ("base", "adapted", "null", "model", "visual_datasets", "text_datasets"),
        "stages": ("grid", "models"),
        "scoreboard": ("comparison", "controls", "concepts"),
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
    kept = inherited(whole, above)
    names = [] if kept is None else list(clashing(kept, above, whole))
    if not names:
        return None
    files = dict.fromkeys(
        below.value[name].where.partition(", line")[0].removeprefix("in ") for name in names
    )
    told = [
        f"{DATA}: found with {quoted(names)} of {', '.join(files)}, which name other data, expected none of "
        f"them ({whole.value[DATA].where})",
    ]
    inner = [one for name in names if name in above.value for one in replaced(name, kept, above)]
    if inner:
        told.append(f"write `extends: false` into {quoted(inner)}")
    left_out = [one for name in names if name in above.value for one in dropped(name, kept, above)]
    if left_out:
        told.append(f"write {quoted([f'{one}: ~' for one in left_out])} into `dictionaries`")
    cleared = [f"{name}: {clearing(name, kept)}" for name in names if name not in above.value]
    if cleared:
        told.append("paste these lines next to `data`:")
    return "\n".join(["; ".join(told), *(f"    {line}" for line in cleared)])


def quoted(names: Collection[str]) -> str:
    """Write names of sections."""
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last}" if others else last


def inherited(whole: Written, above: Written | None) -> Written | None:
    """Return what of a value comes from below, as it is after all that was laid over it; None if nothing.

    Args:
        whole: the value.
        above: the same of what was laid over it; None if that says nothing of it.
    """
    if above is None:
        return whole
    if not isinstance(whole.value, dict) or not isinstance(above.value, dict):
        return None
    found = {key: inherited(entry, above.value.get(key)) for key, entry in whole.value.items()}
    found = {key: entry for key, entry in found.items() if entry is not None}
    return Written(found, whole.where) if found else None


def clashing(kept: Written, above: Written, whole: Written) -> Iterator[str]:
    """Yield the sections of which something is inherited that names other data; see `inherited_problem`.

    Args:
        kept: what is inherited.
        above, whole: see `inherited_problem`.
    """
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
    for name, entry in kept.value.items():
        if name in always or named(entry.plain(), FOLLOWING.get(name, ())):
            yield name


def named(value: Any, keys: Collection[str]) -> bool:
    """Tell whether a section has one of some keys, at any depth."""
    if isinstance(value, dict):
        return any(key in keys or named(inner, keys) for key, inner in value.items())
    return isinstance(value, list) and any(named(inner, keys) for inner in value)


def stays(entry: Written) -> bool:
    """Tell whether a dictionary goes with any data: it is published, and not tuned from another one."""
    keys = section(entry.plain())
    return "source" in keys and "initial" not in keys


def some_stay(name: str, kept: Written) -> bool:
    """Tell whether a section has dictionaries that stay."""
    entries = kept.value[name].value
    return name == "dictionaries" and isinstance(entries, dict) and any(map(stays, entries.values()))


def clearing(name: str, kept: Written) -> str:
    """Return what to write to inherit nothing of a section; published dictionaries are kept."""
    if not some_stay(name, kept):
        return "~"
    return (
        f"{{ {', '.join(f'{key}: ~' for key, entry in kept.value[name].value.items() if not stays(entry))} }}"
    )


def replaced(name: str, kept: Written, above: Written) -> list[str]:
    """Return the keys at which to inherit nothing of a section that is written, too."""
    if not some_stay(name, kept):
        return [name]
    own = above.value[name].value
    return [
        f"{name}.{key}" for key, entry in kept.value[name].value.items() if key in own and not stays(entry)
    ]


def dropped(name: str, kept: Written, above: Written) -> list[str]:
    """Return the dictionaries to leave out of a section that is written, too."""
    if not some_stay(name, kept):
        return []
    own = above.value[name].value
    return [key for key, entry in kept.value[name].value.items() if key not in own and not stays(entry)]

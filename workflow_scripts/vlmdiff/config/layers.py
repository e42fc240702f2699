"""Lay configs over each other: files that extend others, several files, keys of the command line."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
import yte
from yte.exceptions import YteError

from vlmdiff.config.document import sections_in
from vlmdiff.config.inherited import DATA, inherited_problem
from vlmdiff.config.load import ConfigError, place
from vlmdiff.config.schema import Config
from vlmdiff.config.written import NOTHING, Written, written, written_in_yaml, yaml_problem

EXTENDS = "extends"
# Snakemake takes no dots in the keys of `--config`, so two underscores lead into a section.
INTO = "__"
COMMAND_LINE = "on the command line"


def laid_over(below: Written, above: Written) -> Written:
    """Return one value over another: mappings are merged by key, everything else is replaced.

    A key of `above` that is null is left out, with what it holds below. A mapping of `above` that holds
    `extends: false` stands for itself.
    """
    if not isinstance(above.value, dict):
        return above
    entries = dict(above.value)
    if EXTENDS in entries and entries[EXTENDS].value is False:
        del entries[EXTENDS]
        below = NOTHING
    found = dict(below.value) if isinstance(below.value, dict) else {}
    for key, entry in entries.items():
        if entry.value is None:
            found.pop(key, None)
        else:
            found[key] = laid_over(found.get(key, NOTHING), entry)
    return Written(found, above.where)


def shown(path: Path) -> str:
    """Return a path as short as it can be written."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


def parse(path: Path) -> Written:
    """Return what a config file says.

    Raises:
        ConfigError: it cannot be read, is no YAML or JSON, or holds no keys.
    """
    name = shown(path)
    try:
        found = content(path, name)
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        told = f"no YAML: {yaml_problem(error)}"
    except json.JSONDecodeError as error:
        told = f"no JSON: {error}; correct the line"
    except UnicodeDecodeError as error:
        told = f"cannot be read as a config ({error}); save it as UTF-8"
    except YteError as error:
        told = f"cannot be filled in: {error}; correct the expression"
    except RecursionError:
        told = "cannot be read as a config (an anchor holds itself)"
    except (OSError, ValueError) as error:
        told = f"cannot be read as a config ({error})"
    else:
        return found
    raise ConfigError(f"{name}: {told}")


def content(path: Path, name: str) -> Written:
    """Read a config file; see `parse`, which tells what is wrong with it."""
    text = path.read_text(encoding="utf-8")
    found = written(json.loads(text), f"in {name}") if path.suffix == ".json" else written_in_yaml(text, name)
    if not isinstance(found.value, dict):
        kind = type(found.value).__name__.replace("NoneType", "nothing")
        raise ConfigError(f"{name}: expected `key: value` lines, found {kind}")
    if "__use_yte__" in found.value:
        # Filled in as Snakemake does with files that it reads itself; lines are not known then.
        found = written(yte.process_yaml(text, require_use_yte=True), f"in {name}")
    return found


def parents(layer: Written) -> list[str]:
    """Return the files that a layer extends, in order.

    Raises:
        ConfigError: `extends` is neither a file nor a list of files.
    """
    said = layer.value.get(EXTENDS, NOTHING)
    plain = said.plain() or []
    names = [plain] if isinstance(plain, str) else plain
    if isinstance(names, list) and all(isinstance(name, str) and name for name in names):
        return names
    raise ConfigError(f"{EXTENDS}: expected a file or a list of files (found: {plain!r}), {said.where}")


@dataclass
class Reader:
    """Reads layers with all that they extend.

    Attributes:
        home: the workflow's own folder of configs, where `extends` is looked for last.
        files: the files read so far.
    """

    home: Path
    files: list[Path] = field(default_factory=list)

    def file(self, path: Path, chain: tuple[Path, ...] = ()) -> list[Written]:
        """Return the layers of a file: those that it extends, lowest first, and itself.

        Args:
            path: the file.
            chain: the files that led to it, each extending the next.

        Raises:
            ConfigError: see `parse` and `expanded`.
        """
        path = path.absolute()
        if path.resolve() in [one.resolve() for one in chain]:
            circle = " -> ".join(map(shown, (*chain, path)))
            raise ConfigError(f"{EXTENDS}: a config cannot extend itself ({circle})")
        if path not in self.files:
            self.files.append(path)
        return self.expanded(parse(path), path.parent, (*chain, path))

    def expanded(self, layer: Written, folder: Path, chain: tuple[Path, ...] = ()) -> list[Written]:
        """Return the layers that a layer extends, lowest first, and itself.

        Args:
            layer: a mapping.
            folder: where `extends` is looked for first.
            chain: see `file`.

        Raises:
            ConfigError: `extends` leads nowhere or back.
        """
        found = []
        for name in parents(layer):
            places = dict.fromkeys(place.absolute() for place in (folder, Path(), self.home))
            file = next((place / name for place in places if (place / name).is_file()), None)
            if file is None:
                raise ConfigError(
                    f"{EXTENDS}: found '{name}', {layer.value[EXTENDS].where}, but there is no such file in "
                    f"{', '.join(map(str, places))}"
                )
            found += self.file(file, chain)
        kept = {key: entry for key, entry in layer.value.items() if key != EXTENDS or entry.value is False}
        return [*found, Written(kept, layer.where)]


def command_value(text: str) -> Written:
    """Return the value of a `--config` entry: a number, or YAML; text if it is neither, null if empty."""
    text = text.strip("'\"")
    for kind in (int, float):
        try:
            return Written(kind(text), COMMAND_LINE)
        except ValueError:
            pass
    try:
        return written(yaml.safe_load(text), COMMAND_LINE)
    except yaml.YAMLError:
        return Written(text, COMMAND_LINE)


def has_section(path: Sequence[str]) -> bool:
    """Tell whether the schema has a section at a path; entries that users name are none of the schema's."""
    sections: set[type] = {Config}
    parts = list(path)
    while parts and sections:
        part = parts.pop(0)
        types = [one.model_fields[part].annotation for one in sections if part in one.model_fields]
        sections = {inner for one in types for inner in sections_in(one)}
        if any("dict[" in str(one) for one in types):
            if not sections or len(parts) < 2:
                return not (sections and parts)
            parts.pop(0)
    return bool(sections)


def is_derived(section: str, entries: Mapping[str, Any]) -> bool:
    """Tell whether a section is one that follows from `data`, which the configuration has."""
    return DATA in entries and section not in entries and section in Config.model_fields


def check_sections(parts: Sequence[str], below: Written) -> None:
    """Check that all but the last part of a key lead into sections.

    Args:
        parts: of a key of the command line.
        below: the configuration so far.

    Raises:
        ConfigError: one is no section; the message says which, and what there is.
    """
    whole = below.value
    for position in range(1, len(parts)):
        part, entries = parts[position - 1], below.value
        below = entries.get(part, NOTHING)
        if part in entries:
            advice = None if isinstance(below.value, dict) else "it has no keys: set it as a whole"
        elif has_section(parts[:position]) or is_derived(parts[0], whole):
            advice = None
        else:
            near = get_close_matches(part, map(str, entries), n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"there are {sorted(map(str, entries))}"
        if advice is not None:
            raise ConfigError(
                f"{'.'.join(parts)}: '{'.'.join(parts[:position])}' is no section, {COMMAND_LINE}; {advice}"
            )


def reaches_jobs(setting: str) -> bool:
    """Tell whether an entry of `--config` is the same after Snakemake has quoted it for a job."""
    try:
        return shlex.split(repr(setting)) == [setting]
    except ValueError:
        return False


def command_layer(setting: str, below: Written) -> Written:
    """Return what one entry of `--config` sets: `a__b=1` sets the key `b` of the section `a`.

    Args:
        setting: `key=value`.
        below: the configuration so far.

    Raises:
        ConfigError: the key leads into a section that is not there, or jobs would get another value.
    """
    key, _, text = setting.partition("=")
    parts = key.split(INTO)
    if not reaches_jobs(setting):
        raise ConfigError(
            f"{'.'.join(parts)}: found {text}, {COMMAND_LINE}, but Snakemake hands no backslash and not both "
            "kinds of quotes on to jobs; write the value into a file"
        )
    check_sections(parts, below)
    entry = command_value(text)
    for part in reversed(parts):
        entry = Written({part: entry}, COMMAND_LINE)
    return entry


@dataclass(frozen=True)
class Layers:
    """A whole configuration, not yet checked.

    Attributes:
        written: it, with the place of each key.
        files: all files that it was read from.
    """

    written: Written
    files: tuple[Path, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Return it as plain values."""
        return self.written.plain()

    def where(self, key: str) -> str:
        """Return in words where a dotted key was written, or the section nearest to it."""
        entry = self.written
        if DATA in entry.value and key.partition(".")[0] not in entry.value:
            # It was derived.
            return entry.value[DATA].where
        for part in key.split("."):
            value = entry.value
            if isinstance(value, list):
                value = {str(index): item for index, item in enumerate(value)}
            inner = {str(name): item for name, item in value.items()} if isinstance(value, dict) else {}
            if part not in inner:
                break
            entry = inner[part]
        return entry.where

    def located(self, line: str) -> str:
        """Return a line that begins with a key, with the place where that was written."""
        where = place(line, self.where)
        return f"{line} ({where})" if where else line


def read_layers(
    values: Mapping[str, Any],
    files: Iterable[str | Path] = (),
    settings: Iterable[str] = (),
    home: str | Path = "config",
) -> Layers:
    """Return the configuration that files and the command line make together.

    Args:
        values: the configuration where there is no file: what another workflow hands over to this module.
        files: config files, each laid over those before it.
        settings: entries of `--config`, `key=value`.
        home: the workflow's own folder of configs, where `extends` is looked for last.

    Raises:
        ConfigError: a file cannot be read or extends none, or a key of the command line leads nowhere.
    """
    reader = Reader(Path(home))
    layers = [layer for file in files for layer in reader.file(Path(file))]
    layers = layers or reader.expanded(written(values, "in `config` of the workflow"), Path())
    whole = reduce(laid_over, layers, NOTHING)
    for setting in settings:
        further = reader.expanded(command_layer(setting, whole), Path())
        layers, whole = [*layers, *further], reduce(laid_over, further, whole)
    first = next((i for i, layer in enumerate(layers) if DATA in layer.value), 0)
    below, above = (reduce(laid_over, part, NOTHING) for part in (layers[:first], layers[first:]))
    if problem := inherited_problem(below, above, whole):
        raise ConfigError(problem)
    return Layers(whole, tuple(reader.files))

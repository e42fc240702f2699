"""The user's own files that a configuration points to: which are not there, and which key names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from vlmdiff.config.schema import Config, references
from vlmdiff.config.sources import HUB

# Sources that are no paths.
ELSEWHERE = (HUB, "world:", "saelens:")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_local(source: str | None) -> bool:
    """Tell whether a source is a path."""
    return source is not None and not source.startswith(ELSEWHERE)


def used(config: Config, kind: str) -> set[str]:
    """Return the names of the models or data sets that some section uses."""
    return {name for found, _, name in references(config) if found == kind}


def model_files(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what it says, file that has to be there) for the checkpoints in folders."""
    for name in sorted(used(config, "model")):
        model = config.models[name]
        for key, source in (("path", model.path), ("vision_tower", model.vision_tower)):
            if is_local(source):
                yield f"models.{name}.{key}", source, f"{source}/config.json"


def dictionary_files(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield the same for published dictionaries in folders: the folder, and in it a path for each layer."""
    for name in sorted(config.dictionaries.keys() - config.trained().keys()):
        entry = config.dictionaries[name]
        if is_local(entry.source):
            yield f"dictionaries.{name}.source", entry.source, entry.source
            if Path(entry.source).exists():
                for layer in config.layers:
                    yield f"dictionaries.{name}.file", entry.file, f"{entry.source}/{entry.path(layer)}"


def data_files(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield the same for data sets in folders, and for the local sources of prepared ones."""
    for name in sorted(used(config, "dataset") & set(config.datasets)):
        entry = config.datasets[name]
        if entry.kind == "folder":
            yield f"datasets.{name}.path", entry.path, f"{entry.path}/samples.jsonl"
        elif is_local(entry.source):
            yield f"datasets.{name}.source", entry.source, entry.source
        if (images := getattr(entry, "images", None)) is not None:
            yield f"datasets.{name}.images", images, images


def advice(said: str) -> str:
    """Say what may be meant by a path that is not there."""
    path = Path(said)
    while not path.parent.exists():
        path = path.parent
    if said.startswith(("~", "$")):
        return "`~` and variables are not replaced here: write the whole path"
    siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    if near := get_close_matches(path.name, siblings, n=1):
        return f"did you mean {path.parent / near[0]}?"
    if REPOSITORY.fullmatch(said) and len(path.parts) == 1:
        return f"a repository of the hub is written hub:{said}@REVISION"
    return f"correct the path, which counts from {Path.cwd()} on, or put the files there"


def missing_files(config: Config, is_made: Callable[[str], bool] = lambda _: False) -> list[str]:
    """Return a line for each local path that is not there: its key, what was found, and what to do.

    Args:
        config: the configuration.
        is_made: tells whether a rule makes a file.
    """
    lines: dict[str, str] = {}
    for key, said, file in (*model_files(config), *dictionary_files(config), *data_files(config)):
        if key in lines or Path(file).exists() or is_made(file):
            continue
        what = "but nothing is there" if file == said else f"but there is no {file}"
        lines[key] = f"{key}: found '{said}', {what}; {advice(said)}"
    return list(lines.values())

"""The user's own files that a configuration points to: what is not there or cannot be named, and its key."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vlmdiff.config.absent import is_there, not_there
from vlmdiff.config.samples_file import find_samples
from vlmdiff.config.schema import Config, references
from vlmdiff.config.sources import is_literal, is_local
from vlmdiff.config.subsets import line_of

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# What a checkpoint is known by beside its weights and config.json.
BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja", "*/*.jinja")


def used(config: Config, kind: str) -> set[str]:
    """Return the names of the models or data sets that some section uses."""
    return {name for found, _, name in references(config) if found == kind}


def used_datasets(config: Config) -> set[str]:
    """Return the data sets of the user's own that some section uses, themselves or a part of them."""
    known = config.all_datasets()
    roots = {line_of(name, known)[-1] for name in used(config, "dataset")}
    return roots & set(config.datasets)


def model_files(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what it says, file that has to be there) for the checkpoints in folders."""
    for name in sorted(used(config, "model")):
        model = config.models[name]
        for key, source in (("path", model.path), ("vision_tower", model.vision_tower)):
            if is_local(source):
                yield f"models.{name}.{key}", source, f"{source}/config.json"


def dictionary_files(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield the same for published dictionaries in folders: the folder, and in it a path for each layer."""
    for name, entry in config.published().items():
        if is_local(entry.source):
            yield f"dictionaries.{name}.source", entry.source, entry.source
            if is_there(entry.source):
                for layer in config.layers:
                    yield f"dictionaries.{name}.file", entry.file, f"{entry.source}/{entry.path(layer)}"


def data_files(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield the same for data sets in folders, and for the local sources of prepared ones."""
    for name in sorted(used_datasets(config)):
        entry = config.datasets[name]
        if entry.kind == "folder":
            yield f"datasets.{name}.path", entry.path, str(find_samples(entry.path))
        elif is_local(entry.source):
            yield f"datasets.{name}.source", entry.source, entry.source
        if (images := getattr(entry, "images", None)) is not None:
            yield f"datasets.{name}.images", images, images


def files_of(folder: str | Path, patterns: Iterable[str]) -> set[Path]:
    """Return the files in a folder whose names follow one of some patterns."""
    return {file for pattern in patterns for file in Path(folder).glob(pattern) if file.is_file()}


def with_targets(files: Iterable[str | Path]) -> list[str]:
    """Return files, and for each that lies behind a symbolic link the file that is meant.

    Of a link Snakemake sees the time of what it leads to: one that leads elsewhere now may look older.
    Paths with braces, which it takes for wildcards, are left out: `unnameable_files` tells those that are
    read by such a name.
    """
    found = {str(file) for file in files}
    meant = {file: str(Path(file).resolve()) for file in found}
    linked = {target for file, target in meant.items() if Path(target) != Path(file).absolute()}
    return sorted(filter(is_literal, found | linked))


def split_files(source: str | Path, split: str) -> set[Path]:
    """Return the files in the folder of a public data set that one split is read from."""
    name = glob.escape(split)
    return files_of(source, (f"{name}*", f"data/{name}*", f"*_{name}*.json"))


def files_read(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield (key, file) for the files that are read of the user's folders, and whose names others chose."""
    for key, folder, _ in model_files(config):
        yield from ((key, file) for file in files_of(folder, WEIGHTS))
    for key, _, file in dictionary_files(config):
        yield key, Path(file)
    for name in used_datasets(config):
        if is_local(source := getattr(config.datasets[name], "source", None)):
            files = split_files(source, config.datasets[name].split)
            yield from ((f"datasets.{name}.source", file) for file in files)


def unnameable_files(config: Config) -> list[str]:
    """Return a line for each file that is read and that Snakemake takes for a pattern."""
    return [
        f"{key}: found '{file}', expected a name without braces (Snakemake's wildcards); rename it"
        for key, file in sorted(files_read(config))
        if not is_literal(str(file))
    ]


def missing_files(config: Config, is_made: Callable[[str], bool] = lambda _: False) -> list[str]:
    """Return a line for each local path that is not there: its key, what was found, and what to do.

    Args:
        config: the configuration.
        is_made: tells whether a rule makes a file.
    """
    lines: dict[str, str] = {}
    for key, said, file in (*model_files(config), *dictionary_files(config), *data_files(config)):
        if key in lines or is_there(file) or is_made(file):
            continue
        lines[key] = f"{key}: {not_there(said, file)}"
    return list(lines.values())

"""How much of each row is still to be downloaded, by what the hub lists and the cache has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from published.rows import Row
from vlmdiff.config.sources import HubSource
from vlmdiff.dictionaries.source import OPTIONAL, published_files
from vlmdiff.hub.checkpoints import PATTERNS, PICKLED
from vlmdiff.hub.fetch import HubError, explained

GB = 1e9
SPARE_GB = 2.0  # that stay free on the disk


@dataclass(frozen=True)
class Plan:
    """What a row takes.

    Attributes:
        row: the row.
        missing: bytes to be downloaded.
        problem: why the hub does not list it; it is tried all the same.
    """

    row: Row
    missing: int
    problem: str | None = None


def plan(row: Row) -> Plan:
    """Ask the hub how large a row's files are; its own note of the size serves if the hub does not answer."""
    try:
        missing = sum(
            size
            for source, patterns in wanted(row)
            for name, size in listed(source, patterns)
            if not cached(source, name)
        )
    except HubError as error:
        return Plan(row, int(row.example.gigabytes * GB), str(error))
    return Plan(row, missing)


def wanted(row: Row) -> Iterator[tuple[HubSource, Sequence[str]]]:
    """Yield the repositories of a row, with patterns of the files that are read."""
    example = row.example
    source = HubSource(example.repository, example.revision)
    if row.kind == "format":
        optional = [f"{example.file}/{name}" for name in OPTIONAL.get(row.reads, ())]
        yield source, [*published_files(row.reads, example.file), *optional]
        return
    yield source, PATTERNS
    if example.vision_tower is not None:
        yield HubSource(example.vision_tower, "main"), PATTERNS


def listed(source: HubSource, patterns: Sequence[str]) -> list[tuple[str, int]]:
    """Return names and bytes of a repository's files that are fetched; pickles where nothing else is.

    Raises:
        HubError: the hub does not tell.
    """
    from huggingface_hub import HfApi

    with explained(source, "model"):
        tree = list(HfApi().list_repo_tree(source.repository, recursive=True, revision=source.revision))
    sizes = {one.path: one.size for one in tree if hasattr(one, "size")}
    weights = patterns is PATTERNS and not any(fnmatch(name, "*.safetensors") for name in sizes)
    allowed = [*patterns, *([PICKLED] if weights else [])]
    return [(name, size) for name, size in sizes.items() if any(fnmatch(name, one) for one in allowed)]


def cached(source: HubSource, name: str) -> bool:
    """Tell whether the hub's cache has a file."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.repository, name, revision=source.revision), str)


def within(plans: Sequence[Plan], most_gb: float) -> list[Plan]:
    """Return the plans that a limit allows, those with the smallest downloads first."""
    chosen, total = [], 0
    for one in sorted(plans, key=lambda found: found.missing):
        total += one.missing
        if total <= most_gb * GB:
            chosen.append(one)
    return chosen


def disk_problem(plans: Sequence[Plan], cache: Path) -> str | None:
    """Say why a disk is too small for what is to be downloaded; None if it is not."""
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    free, needed = shutil.disk_usage(place).free / GB, sum(one.missing for one in plans) / GB
    if needed + SPARE_GB <= free:
        return None
    return (
        f"the disk of HF_HOME has {free:.1f} GB free, but {needed:.1f} GB are to be downloaded and "
        f"{SPARE_GB:g} GB stay free; set HF_HOME to another disk, or lower --most-gb"
    )

"""Reported data was not used before: what the configuration alone can tell (docs/understand/hold_out.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from vlmdiff.config.base import Section
from vlmdiff.config.datasets import FolderDataset, SubsetDataset
from vlmdiff.config.overlap import real_source, rows_overlap
from vlmdiff.config.samples_file import data_folder, find_samples
from vlmdiff.config.subsets import line_of
from vlmdiff.config.world import WorldDataset

REPORT = ".report_on."
# Scores of dictionaries: nothing is chosen by them, and nobody asks the model.
SCORES = ("evaluation.", "perplexity.")


class HeldOutConfig(Section):
    """Data that are reported on were not used before (docs/understand/hold_out.md)."""

    shared_images: Literal["drop", "keep"] = Field(
        "drop",
        description="Samples to report on whose image was used before: `drop` leaves them out, `keep` "
        "reports on them as well, and the summary says so.",
    )


def reported(references: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Return the data sets that are reported on, each with the first key that names it.

    Args:
        references: (kind, key, name) of all that a configuration refers to.
    """
    keys: dict[str, str] = {}
    for kind, key, name in references:
        if kind == "dataset" and REPORT in key:
            keys.setdefault(name, key)
    return keys


def used_before(references: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Return the data sets that are used before anything is reported, each with a key that names it.

    Whatever reads a data set counts, unless it reports on it or scores a dictionary: training, energies,
    contrasts, ranking, tracing of heads, choice of a vector and its strength.

    Args:
        references: see `reported`.
    """
    keys: dict[str, str] = {}
    for kind, key, name in references:
        if kind == "dataset" and REPORT not in key and not key.startswith(SCORES):
            keys.setdefault(name, key)
    return keys


def what_is_shared(one: str, other: str, datasets: Mapping[str, Any]) -> str | None:
    """Say what two data sets have in common; None if that cannot be told before they are read.

    Args:
        one, other: names of both.
        datasets: entries of all data sets, by name.
    """
    lines = line_of(one, datasets), line_of(other, datasets)
    roots = [line[-1] for line in lines]
    if roots[0] == roots[1]:
        return shared_by_subsets(*lines, datasets)
    return shared_by_sources(*(datasets[root] for root in roots), whole=max(map(len, lines)) == 1)


def shared_by_subsets(one: list[str], other: list[str], datasets: Mapping[str, Any]) -> str | None:
    """Say what two data sets that come from one have in common; None if that cannot be told.

    Args:
        one, other: each data set, what it is a subset of, and so on; see `line_of`.
        datasets: entries of all data sets, by name.
    """
    if one == other:
        return "it is the same data set"
    common = next(name for name in one if name in other)
    if common in (one[0], other[0]):
        inner, outer = (one[0], other[0]) if common == other[0] else (other[0], one[0])
        return f"'{inner}' is part of '{outer}'"
    # Below what they have in common each is a subset of it, and perhaps a subset of that.
    first, second = (
        narrowed([datasets[name] for name in line[: line.index(common)]]) for line in (one, other)
    )
    return f"both take samples of '{common}'" if surely_overlap(first, second) else None


def narrowed(entries: Sequence[SubsetDataset]) -> SubsetDataset:
    """Return the one subset that subsets of each other are together, the innermost first."""
    groups = [set(entry.groups) for entry in entries if entry.groups is not None]
    return entries[0].model_copy(
        update={
            "part": next((entry.part for entry in entries if entry.part != "all"), "all"),
            "groups": sorted(set.intersection(*groups)) if groups else None,
            "without": sorted({name for entry in entries for name in entry.without}),
            "images": all(entry.images for entry in entries),
        }
    )


def surely_overlap(one: SubsetDataset, other: SubsetDataset) -> bool:
    """Tell whether two subsets of one data set hold a sample in common, whatever that data set holds."""
    if one.images != other.images or "all" not in (one.part, other.part) and one.part != other.part:
        return False
    left_out = {*one.without, *other.without}
    lists = [set(entry.groups) for entry in (one, other) if entry.groups is not None]
    return bool(set.intersection(*lists) - left_out) if lists else not left_out


def shared_by_sources(entry: Any, other_entry: Any, whole: bool) -> str | None:
    """Say what two data sets that are no subsets, or subsets of them, have in common.

    Args:
        entry, other_entry: of both, or of what they come from.
        whole: whether both are meant as they are.
    """
    if isinstance(entry, WorldDataset) and isinstance(other_entry, WorldDataset):
        same = entry.scenes == other_entry.scenes
        return f"both show scenes of the split '{entry.scenes}'" if same else None
    if not whole:
        return None
    if isinstance(entry, FolderDataset) and isinstance(other_entry, FolderDataset):
        file, folder = (real_source(str(find(entry.path))) for find in (find_samples, data_folder))
        same = file == real_source(str(find_samples(other_entry.path)))
        return f"both read the folder {folder}" if same else None
    if rows_overlap(entry, other_entry):
        rows = (f"{part.offset} to {part.offset + part.samples - 1}" for part in (entry, other_entry))
        return f"both take rows of {real_source(entry.source)}, split '{entry.split}': {' and '.join(rows)}"
    return None


def others_by(shared: Mapping[str, str], told: str) -> list[tuple[str, list[str]]]:
    """Return what is shared with the data sets that are not told yet, each with their names."""
    found: dict[str, list[str]] = {}
    for name, common in shared.items():
        if name != told:
            found.setdefault(common, []).append(name)
    return list(found.items())


def check_held_out(references: Iterable[tuple[str, str, str]], datasets: Mapping[str, Any]) -> None:
    """Refuse to report on what was used before.

    What only the samples tell (rows of other filters and seeds, images) is left to the rule `hold_out`.

    Args:
        references: see `reported`.
        datasets: entries of all data sets, by name.

    Raises:
        ValueError: naming both keys, both data sets, what they share and what to change.
    """
    references = list(references)
    before, found = used_before(references), []
    for name, key in reported(references).items():
        # The same data set under its own name is the plainest case.
        others = sorted(before, key=lambda other: other != name)
        shared = {other: common for other in others if (common := what_is_shared(name, other, datasets))}
        if shared:
            other, common = next(iter(shared.items()))
            more = "".join(
                f"; {', '.join(repr(one) for one in names)} too: {what}"
                for what, names in others_by(shared, other)
            )
            found.append(
                f"{key}: found data set '{name}', expected one that was not used before, but {before[other]} "
                f"uses '{other}', and {common}{more}; name other data in one of the two keys"
            )
    if found:
        raise ValueError("\n  ".join(found))

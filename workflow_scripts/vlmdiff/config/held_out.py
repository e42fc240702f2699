"""Reported data was not used before: what the configuration alone can tell (docs/understand/hold_out.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from vlmdiff.config.base import Section
from vlmdiff.config.datasets import FolderDataset
from vlmdiff.config.overlap import real_source, rows_overlap
from vlmdiff.config.world import WorldDataset

REPORT = ".report_on."
# Scores of dictionaries: nothing is chosen by them, and nobody asks the model.
SCORES = "evaluation."


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


def what_is_shared(one: tuple[str, Any], other: tuple[str, Any]) -> str | None:
    """Say what two data sets have in common; None if that cannot be told before they are read.

    Args:
        one, other: name and entry of both.
    """
    (name, entry), (other_name, other_entry) = one, other
    if name == other_name:
        return "it is the same data set"
    if isinstance(entry, WorldDataset) and isinstance(other_entry, WorldDataset):
        same = entry.scenes == other_entry.scenes
        return f"both show scenes of the split '{entry.scenes}'" if same else None
    if isinstance(entry, FolderDataset) and isinstance(other_entry, FolderDataset):
        folder = real_source(entry.path)
        return f"both read the folder {folder}" if folder == real_source(other_entry.path) else None
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
        shared = {
            other: common
            for other in others
            if (common := what_is_shared((name, datasets[name]), (other, datasets[other])))
        }
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

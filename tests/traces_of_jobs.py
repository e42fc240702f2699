"""What the jobs of a real run imported and opened, as their processes noted at their end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

HOOK = Path(__file__).parent / "noted_by_jobs"


@dataclass(frozen=True)
class Trace:
    """One job.

    Attributes:
        rule: its rule.
        imported: modules of the library.
        opened: files that Python opened; compiled libraries open files unseen.
        declared: inputs, outputs and log.
    """

    rule: str
    imported: frozenset[str]
    opened: frozenset[str]
    declared: frozenset[str]


def noting(folder: Path) -> dict[str, str]:
    """Return the environment in which every job of a run writes its trace into a folder."""
    return {"PYTHONPATH": str(HOOK), "TRACES_OF_JOBS": str(folder)}


def read_traces(folder: Path) -> list[Trace]:
    """Return the traces of all jobs."""
    found = []
    for file in sorted(folder.glob("*.json")):
        values = {name: frozenset(items) for name, items in json.loads(file.read_text()).items()}
        found.append(Trace(file.name.partition(".")[0], **values))
    return found

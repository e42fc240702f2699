"""The reviewed table of what each change plans: read, compared, written anew on request."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml
from dry_runs import DryRuns, Plan
from staleness_changes import ROOT, Change, applied, tracked_files

TABLE = ROOT / "tests" / "workflow" / "staleness.yaml"
NOT_REVIEWED = "NOT REVIEWED"
HEADER = """\
# What is remade when something changes in the tiny experiment, all of whose targets were made: for groups of
# changes that plan the same. `starts` are the jobs that are stale by themselves, `plans` all that are remade,
# `2 of 28` where not every job of a rule is. docs/develop/dependability.md tells how the table is tested.
#
# Written by `make staleness-table`, which keeps each `why`. A new group says NOT REVIEWED there, and the
# tests fail until somebody has written why these jobs, all of them and no other, depend on the changes.
"""


def written(counts: Mapping[str, int], totals: Mapping[str, int]) -> tuple[str, ...]:
    """Write counts of jobs by rule: the rule alone if all its jobs are meant."""
    jobs = ((rule, count, totals.get(rule, count)) for rule, count in sorted(counts.items()))
    return tuple(rule if count >= total else f"{rule} {count} of {total}" for rule, count, total in jobs)


@dataclass(frozen=True)
class Outcome:
    """What a change plans, as the table writes it."""

    starts: tuple[str, ...]
    plans: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan, totals: Mapping[str, int]) -> Outcome:
        """Write a plan, targets aside, which have no job of their own."""
        jobs = {rule: count for rule, count in plan.jobs.items() if rule in totals}
        starts = {rule: count for rule, count in plan.starts.items() if rule in totals}
        return cls(written(starts, totals), written(jobs, totals))


# Which chapter of the table a change belongs to, by the first word of its name.
CHAPTERS = {"code": "code", "file": "files", "deleted": "lost files", "remark": "remarks"}
SETTINGS = "settings"


def chapter(change: str) -> str:
    """Return the chapter of a change."""
    return CHAPTERS.get(change.partition(" ")[0], SETTINGS)


@dataclass
class Table:
    """Totals of jobs by rule, the outcome of every change, and the reason of every outcome of a chapter."""

    totals: dict[str, int]
    outcomes: dict[str, Outcome]
    why: dict[tuple[str, Outcome], str]

    @classmethod
    def read(cls, file: Path = TABLE) -> Table:
        """Read the reviewed table."""
        values = yaml.safe_load(file.read_text())
        outcomes, why = {}, {}
        for name, groups in values["chapters"].items():
            for group in groups:
                outcome = Outcome(tuple(group["starts"]), tuple(group["plans"]))
                why[name, outcome] = group["why"]
                outcomes |= dict.fromkeys(group["changes"], outcome)
        return cls(values["totals"], outcomes, why)

    def write(self, file: Path = TABLE) -> None:
        """Write the table: chapter by chapter, outcomes that plan least first."""
        parts = [HEADER, yaml.safe_dump({"totals": self.totals}), "chapters:\n"]
        for name in (SETTINGS, *CHAPTERS.values()):
            groups: dict[Outcome, list[str]] = {}
            for change in sorted(self.outcomes):
                if chapter(change) == name:
                    groups.setdefault(self.outcomes[change], []).append(change)
            parts.append(f"\n  {name}:\n")
            for outcome in sorted(groups, key=lambda one: (len(one.plans), one.plans, one.starts)):
                why = json.dumps(self.why.get((name, outcome), NOT_REVIEWED), ensure_ascii=False)
                parts += [
                    f"  - why: {why}\n",
                    listed("starts", outcome.starts),
                    listed("plans", outcome.plans),
                ]
                parts.append("    changes:\n" + "".join(f"    - {change}\n" for change in groups[outcome]))
        file.write_text("".join(parts))


def listed(key: str, items: Iterable[str]) -> str:
    """Write a list of jobs in as few lines as fit; a job stays on one line."""
    text = textwrap.fill(f"[{', '.join(items).replace(' ', '~').replace(',~', ', ')}]", 106)
    return f"    {key}:\n{textwrap.indent(text.replace('~', ' '), ' ' * 6)}\n"


def copy_project(target: Path, *folders: str) -> Path:
    """Copy the project's files with their times, and generated folders, all of one time; links stay links.

    Which of two finished files is newer depends on the order of jobs in a run, and what a job that gets new
    inputs gives as its reason would depend on it too.
    """
    for file in tracked_files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file)
    for folder in folders:
        shutil.copytree(ROOT / folder, target / folder, symlinks=True)
    now = time.time()
    for folder in folders:
        for file in (target / folder).rglob("*"):
            os.utime(file, (now, now), follow_symlinks=False)
    return target


def plan_all(
    changes: Iterable[Change], copies: Iterable[Path], config: Path, targets: Iterable[str]
) -> dict[str, Plan]:
    """Return what every change plans, one dry run at a time in each copy of the project.

    Args:
        changes: each is made alone, and undone.
        copies: folders with the project and its results, in which nothing is stale.
        config: file of the unchanged configuration.
        targets: what is asked for.
    """
    free: SimpleQueue[DryRuns] = SimpleQueue()
    found: dict[str, Plan] = {}

    def plan(change: Change) -> None:
        runs = free.get()
        try:
            with applied(change, runs.folder, config) as arguments:
                found[change.name] = runs.plan(*targets, *arguments)
        except Exception as error:
            raise RuntimeError(f"{change.name}: {error}") from error
        finally:
            free.put(runs)

    servers = [DryRuns(copy) for copy in copies]
    try:
        for server in servers:
            free.put(server)
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(plan, changes))
    finally:
        for server in servers:
            server.__exit__()
    return found

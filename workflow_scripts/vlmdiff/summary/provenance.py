"""Where an experiment's results come from, on one page, from the records that its jobs left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.records import FOLDER, read_record

Record = dict[str, Any]


def job_records(experiment: Path) -> list[Record]:
    """Return one record of each job: its outputs have the same origin.

    Raises:
        FileNotFoundError: there is none.
    """
    found = {}
    for path in sorted((experiment / FOLDER).rglob("*.json")):
        record = read_record(path)
        if record is not None:
            found.setdefault(record["job"], record)
    if not found:
        raise FileNotFoundError(f"{experiment / FOLDER}: no records; run the experiment first")
    return list(found.values())


def counted(records: Sequence[Record], say: Callable[[Record], str]) -> list[str]:
    """Return what the records say, one list item each, with the number of jobs."""
    counts = Counter(map(say, records))
    return [
        f"- {text}: {count} jobs" for text, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    ]


def project(record: Record) -> str:
    """Say which version of the project a job ran."""
    commit, changed = record["project"]["commit"], record["project"]["changed"]
    if commit is None:
        return "not a git checkout"
    return f"commit `{commit}`" + (" with local changes" if changed else "")


def machine(record: Record) -> str:
    """Say what a job ran on."""
    found = record["machine"]
    accelerators = found.get("accelerators", [])
    return ", ".join([found["processor"], f"{found['cores']} cores", found["system"], *accelerators])


def software(record: Record) -> str:
    """Say which versions a job used."""
    return ", ".join(f"{name} {version}" for name, version in record["software"].items())


def rule_rows(records: Sequence[Record]) -> list[str]:
    """Return a row a rule: jobs, digests of the code that they ran, threads, random seeds."""
    rules: dict[str, list[Record]] = {}
    for record in records:
        rules.setdefault(record["rule"], []).append(record)
    rows = ["| rule | jobs | code | threads | seeds |", "|---|---|---|---|---|"]
    for rule, members in sorted(rules.items()):
        codes = ", ".join(sorted({f"`{one['code']}`" for one in members}))
        threads = ", ".join(map(str, sorted({one["threads"] for one in members})))
        seeds = sorted({one["seed"] for one in members if one["seed"] is not None})
        rows.append(f"| `{rule}` | {len(members)} | {codes} | {threads} | {some(seeds)} |")
    return rows


def some(seeds: Sequence[int], most: int = 3) -> str:
    """List a few seeds and count the others; all are in the records."""
    shown = ", ".join(map(str, seeds[:most]))
    return f"{shown} and {len(seeds) - most} more" if len(seeds) > most else shown


def write_provenance(experiment: str | Path, output: str | Path) -> None:
    """Write the page.

    Args:
        experiment: folder `results/<experiment>`.
        output: Markdown file.
    """
    experiment = Path(experiment)
    records = job_records(experiment)
    times = sorted(record["started"] for record in records)
    lines = [
        f"# Where the results of `{experiment.name}` come from",
        "",
        f"{len(records)} jobs, started from {times[0]} to {times[-1]}. `config.yaml` in this folder is the",
        f"whole configuration; `{FOLDER}/` holds a record of every output: checksum, inputs, code, software,",
        "machine.",
        "",
        "## Project",
        *counted(records, project),
        "",
        "## Machines",
        *counted(records, machine),
        "",
        "## Software",
        *counted(records, software),
        "",
        "## Rules",
        *rule_rows(records),
    ]
    with replacing(output) as temporary:
        temporary.write_text("\n".join(lines) + "\n")

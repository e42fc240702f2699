"""Where an experiment's results come from, on one page, from the records that its jobs left."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.records import FOLDER, described_path, read_record

Record = dict[str, Any]
# What `vlmdiff.config.together` puts behind the name of a rule.
LAYERS = re.compile(r"_(alone|\d+_\d+)$")
# What a checkpoint was fetched from, in its folder: from the hub, from a package.
FETCHED = ("hub.json", "package.json")
# The script of the rule that writes the page.
OWN_SCRIPT = "write_provenance"


def output_records(experiment: Path) -> dict[Path, Record]:
    """Return the record of each output, by its path below the experiment.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted((experiment / FOLDER).rglob("*.json"))
    records = {described_path(path, experiment): read_record(path) for path in paths}
    found = {path.relative_to(experiment): record for path, record in records.items() if record is not None}
    if not found:
        raise FileNotFoundError(f"{experiment / FOLDER}: no records; run the experiment first")
    return found


def is_of_a_former_rule(rule: str, scripts: Collection[str], own: str) -> bool:
    """Tell whether the workflow has a rule of this name no longer.

    Args:
        rule: the name in a record. A workflow that uses this one as a module puts a prefix before it; a rule
            for one of several groups of layers has these behind it.
        scripts: names of the workflow's scripts, which are those of its rules.
        own: what the rule that asks is called. A name of the user's own choice tells no prefix.
    """
    if OWN_SCRIPT not in scripts or not own.endswith(OWN_SCRIPT):
        return False
    ours = rule.startswith(own.removesuffix(OWN_SCRIPT))
    return ours and not LAYERS.sub("", rule).endswith(tuple(scripts))


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
        seeds = sorted({seed for one in members for seed in seeds_of(one)})
        rows.append(f"| `{rule}` | {len(members)} | {codes} | {threads} | {some(seeds)} |")
    return rows


def seeds_of(job: Record) -> list[int]:
    """Return a job's random seeds: none, one, or one for each of its layers."""
    found = job["seed"]
    return found if isinstance(found, list) else [] if found is None else [found]


def some(names: Sequence[Any], most: int = 3) -> str:
    """List a few and count the others; all are in the records."""
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def former_section(records: Mapping[Path, Record]) -> list[str]:
    """Return the lines on outputs of rules that the workflow has no longer; none if there are none."""
    rules: dict[str, list[str]] = {}
    for path, record in records.items():
        rules.setdefault(record["rule"], []).append(f"`{path}`")
    if not rules:
        return []
    return [
        "",
        "## Left by earlier runs",
        f"Nothing makes these any more. Delete them, their records in `{FOLDER}/` and their times in",
        "`benchmarks/`, if you do not need them.",
        "",
        *(f"- `{rule}`: {some(paths, most=12)}" for rule, paths in sorted(rules.items())),
    ]


def fetched_section(experiment: Path) -> list[str]:
    """Return the lines on checkpoints that were fetched; none if there are none."""
    records = {
        file.parent.name: json.loads(file.read_text())
        for file in sorted(experiment.glob("models/*/*.json"))
        if file.name in FETCHED
    }
    lines = [f"- `{name}`: {fetched(record)}" for name, record in records.items()]
    return ["", "## Fetched models", *lines] if lines else []


def fetched(record: Mapping[str, Any]) -> str:
    """Say what a fetched checkpoint is, by the record that lies with it."""
    if "package" not in record:
        return f"`{record['repository']}` of the hub, commit `{record['commit']}`"
    kinds = ", ".join(f"{count} in {kind}" for kind, count in sorted(record["quantised"].items()))
    return (
        f"`{record['file']}` of the package `{record['package']}`, SHA-256 `{record['sha256']}`. Its weights "
        f"were quantised (tensors: {kinds}), and are read in float32: not quite those that were trained"
    )


def write_provenance(experiment: str | Path, output: str | Path, scripts: Collection[str], own: str) -> None:
    """Write the page.

    Args:
        experiment: folder `results/<experiment>`.
        output: Markdown file.
        scripts: names of the workflow's scripts, which are those of its rules.
        own: what the rule that writes the page is called.
    """
    experiment = Path(experiment)
    outputs = output_records(experiment)
    former = {path: one for path, one in outputs.items() if is_of_a_former_rule(one["rule"], scripts, own)}
    # All outputs of a job have the same origin.
    records = list({one["job"]: one for path, one in outputs.items() if path not in former}.values())
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
        *fetched_section(experiment),
        *former_section({path: one for path, one in former.items() if (experiment / path).exists()}),
    ]
    with replacing(output) as temporary:
        temporary.write_text("\n".join(lines) + "\n")

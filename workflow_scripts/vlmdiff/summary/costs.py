"""What a run cost, rule by rule, from Snakemake's benchmark files and the records of jobs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.records import FOLDER, read_record
from vlmdiff.tables.costs import COSTS
from vlmdiff.tables.io import TableError, write_table

log = logging.getLogger(__name__)
Record = dict[str, Any]
NOTHING: Mapping[Path, Record] = MappingProxyType({})
# Columns of a benchmark file that are read; `-` stands for what could not be measured.
MEASURED = ["s", "cpu_time", "max_rss"]
# Snakemake writes two decimals; a sum of such numbers is no more exact.
DECIMALS, SHARE_DECIMALS = 2, 6


def read_benchmark(path: Path, folder: Path, used: Mapping[Path, Record] = NOTHING) -> pd.DataFrame:
    """Return the last measurement of one job, with the rule that the file's place names.

    Args:
        path: benchmark file.
        folder: that of all of them.
        used: what jobs noted of themselves (`job_records`): processor time and memory. Snakemake looks at a
            job now and then, and not at one that another process runs.

    Raises:
        TableError: the file is damaged.
    """
    try:
        row = pd.read_csv(path, sep="\t", usecols=MEASURED, na_values="-").tail(1).astype(float)
    except (OSError, ValueError) as error:
        damaged = TableError(f"{path}: no measurement of Snakemake's ({error}); delete the file")
        raise not_read(path, error) or damaged from error
    place = path.relative_to(folder)
    if noted := used.get(place.with_suffix("")):
        row = row.assign(cpu_time=noted["cpu_seconds"], max_rss=noted["memory_max_mb"])
    return row.assign(rule=place.parts[0].removesuffix(".tsv"))


def job_records(experiment: Path) -> dict[Path, Record]:
    """Return what each job noted of itself, by the place of its log below `logs`, without its ending."""
    found = {}
    for path in sorted((experiment / FOLDER).rglob("*.json")):
        record = read_record(path)
        log_file = record and record.get("log")
        if log_file and "cpu_seconds" in record:
            place = Path(log_file).with_suffix("")
            found[Path(*place.parts[place.parts.index("logs") + 1 :])] = record
    return found


def cost_table(folder: Path) -> pd.DataFrame:
    """Sum what the jobs of an experiment took (contract COSTS).

    Args:
        folder: `benchmarks` of an experiment: `<rule>.tsv`, or `<rule>/` with a file a job.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.rglob("*.tsv"))
    if not files:
        raise FileNotFoundError(f"{folder}: no benchmark files; run the experiment first")
    used = job_records(folder.parent)
    jobs = pd.concat([read_benchmark(path, folder, used) for path in files], ignore_index=True)
    by_rule = jobs.groupby("rule")
    table = pd.DataFrame(
        {
            "jobs": by_rule.size(),
            "wall_s": by_rule["s"].sum().round(DECIMALS),
            "wall_median_s": by_rule["s"].median().round(DECIMALS),
            "wall_max_s": by_rule["s"].max(),
            "cpu_s": by_rule["cpu_time"].sum().round(DECIMALS),
            "memory_max_mb": by_rule["max_rss"].max(),
        }
    )
    table["share"] = (table["wall_s"] / table["wall_s"].sum()).round(SHARE_DECIMALS)
    return table.reset_index().sort_values(["wall_s", "rule"], ascending=[False, True], ignore_index=True)


def summarise_costs(folder: str | Path, output: str | Path) -> None:
    """Write the table COSTS of all jobs below a folder of benchmark files."""
    table = cost_table(Path(folder))
    first = table.iloc[0]
    log.info("%d jobs, %.0f s; most of it: %s, %.0f %%", table["jobs"].sum(), table["wall_s"].sum(),
             first["rule"], 100 * first["share"])  # fmt: skip
    write_table(table, COSTS, output)

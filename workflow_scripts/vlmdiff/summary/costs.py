"""What a run cost, rule by rule, from the benchmark files that Snakemake writes."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.tables.costs import COSTS
from vlmdiff.tables.io import TableError, write_table

log = logging.getLogger(__name__)
# Columns of a benchmark file that are read; `-` stands for what could not be measured.
MEASURED = ["s", "cpu_time", "max_rss"]
# Snakemake writes two decimals; a sum of such numbers is no more exact.
DECIMALS, SHARE_DECIMALS = 2, 6


def read_benchmark(path: Path, folder: Path) -> pd.DataFrame:
    """Return the last measurement of one job, with the rule that the file's place names.

    Raises:
        TableError: the file is damaged.
    """
    try:
        row = pd.read_csv(path, sep="\t", usecols=MEASURED, na_values="-").tail(1).astype(float)
    except (OSError, ValueError) as error:
        damaged = TableError(f"{path}: no measurement of Snakemake's ({error}); delete the file")
        raise not_read(path, error) or damaged from error
    return row.assign(rule=path.relative_to(folder).parts[0].removesuffix(".tsv"))


def cost_table(folder: Path) -> pd.DataFrame:
    """Sum the benchmark files below a folder (contract COSTS).

    Args:
        folder: `benchmarks` of an experiment: `<rule>.tsv`, or `<rule>/` with a file a job.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.rglob("*.tsv"))
    if not files:
        raise FileNotFoundError(f"{folder}: no benchmark files; run the experiment first")
    jobs = pd.concat([read_benchmark(path, folder) for path in files], ignore_index=True)
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

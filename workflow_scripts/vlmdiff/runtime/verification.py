"""Comparing all results of an experiment with their records."""

from __future__ import annotations

import logging
from pathlib import Path

from vlmdiff.runtime.records import DamagedFileError, all_problems

log = logging.getLogger(__name__)


class NoRecordsError(ValueError):
    """An experiment has no results that were recorded."""


def verify(experiment: str | Path) -> None:
    """Read every recorded result and compare its checksum.

    Results that are not there any more (temporary ones, or deleted by hand) are counted, not refused:
    Snakemake makes again what is needed.

    Args:
        experiment: folder `results/<experiment>`.

    Raises:
        DamagedFileError: naming every file that is not what its job left behind, and the remedy.
        NoRecordsError: there is nothing to verify.
    """
    records, problems = all_problems(experiment)
    if not records:
        raise NoRecordsError(
            f"{experiment}: found no records of results, expected those of a run; run the experiment first, "
            "or name its config with --configfile"
        )
    missing = [problem for problem in problems if problem.missing]
    damaged = [problem for problem in problems if not problem.missing]
    for problem in problems:
        (log.info if problem.missing else log.error)("%s: %s", problem.path, problem.found)
    log.info("%d records compared: %d files damaged, %d not there", records, len(damaged), len(missing))
    if damaged:
        files = ", ".join(str(problem.path) for problem in damaged)
        outputs = " ".join(sorted({str(problem.output) for problem in damaged}))
        raise DamagedFileError(
            f"{len(damaged)} of the results of {experiment} are damaged or were edited: {files}. Delete them "
            f"(rm -r {outputs}) and run the experiment again, with the options that made them"
        )

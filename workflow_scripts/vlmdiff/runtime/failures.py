"""What a run that failed leaves for its reader: a line for each job that could not write one itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# How the frame of a job ends its log (`vlmdiff.runtime.job`).
ENDINGS = (" finished after ", " failed: ")


def last_line(log: Path) -> str:
    """Return the last line of a log file that is not empty."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def broken_logs(folder: str | Path, since: float) -> Iterator[tuple[Path, str]]:
    """Yield the logs of jobs that did not finish, with their last lines.

    Args:
        folder: `logs` of an experiment.
        since: only logs written after this time, seconds since the epoch.
    """
    for log in sorted(Path(folder).rglob("*.log")):
        if log.stat().st_mtime >= since and ENDINGS[0] not in (line := last_line(log)):
            yield log, line


def failure_summary(folder: str | Path, since: float) -> str:
    """Say in one line for each job that did not finish what happened, where its log is, and what to do.

    A job that was killed, by the system for want of memory or by a scheduler, has no last word; its line
    says so.

    Args:
        folder: `logs` of an experiment.
        since: when the run started, seconds since the epoch.
    """
    lines = []
    for log, last in broken_logs(folder, since):
        if ENDINGS[1] in last:
            lines.append(last)
        else:
            job = ", ".join(log.relative_to(folder).with_suffix("").parts)
            lines.append(
                f"{job} was killed, or is still running on a cluster. Log: {log}. Next: if memory ran out, "
                "give the rule more (`resources:` in the config); then run snakemake again: finished jobs "
                "are kept, trainings resume"
            )
    return "\n".join(lines) or f"No job failed by itself; see Snakemake's messages above and {folder}"

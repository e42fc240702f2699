"""What a run that failed leaves for its reader: one line for each job that failed, with its cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vlmdiff.runtime.causes import one_line

# How the frame of a job ends its log (`vlmdiff.runtime.job`); other words may follow, as the process ends.
FINISHED = re.compile(r"^\S+ \S+ INFO vlmdiff: (\S.* finished after [\d.]+ s)$")
FAILED = re.compile(r"^\S+ \S+ ERROR vlmdiff: (\S.*? failed: .*)$")
# How Python's fault handler tells of a crash of native code, and names the line of the thread that crashed.
CRASHED = re.compile(r"^Fatal Python error: (.+)$")
THREAD = re.compile(r"^(Current thread|Thread) 0x")
PLACE = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')
# A record of the log; and how Python ends what it prints of an exception that nobody caught.
RECORD = re.compile(r"^\d{4}-\d\d-\d\d \S+ [A-Z]+ ")
TRACEBACK = "Traceback (most recent call last):"
RAISED = re.compile(r"^([A-Za-z_][\w.]*)(: .*)?$")
ERROR = re.compile(r"^(\w+\.)*\w*(Error|Exception|ExceptionGroup|Interrupt|Exit)(: .*)?$")
# What stands before each line of one of several processes (`[rank1]: `), and of a group's message.
BEFORE = re.compile(r"^(?:\[[A-Za-z_]*\d+\]: ?)?(?:  (?:\| )+)?")
# What follows a message, whose lines go on otherwise.
OTHER = re.compile(
    rf"^\s*$|^ *\+-|^.*{re.escape(TRACEBACK)}|{RECORD.pattern}|^\[?[WEIF]\d{{4}} |^Exception ignored"
    r"|^(?:srun|slurmstepd): |^terminate called|^(?:free|malloc|munmap_chunk)\(\)"
)
# How Snakemake names the logs of a job that failed.
NAMED = re.compile(r"^ +log: (.+) \(check log file\(s\) for error details\)$")
AGAIN = "then run snakemake again: finished jobs are kept, trainings resume"
NEXT = {
    "Bus error": "make room in /dev/shm and on the disk, which memory is mapped from, ",
    "killed": "if memory or time ran out, give the rule more (`resources:` in the config); ",
    "failed": "fix the cause, ",
    "crash": "if it crashes again, report the log: a library, a driver or the machine is at fault; ",
}


def last_word(lines: Sequence[str]) -> tuple[re.Pattern, int] | None:
    """Return what a job's log says last of how the job ended, and in which line; None if it does not say."""
    for number in range(len(lines) - 1, -1, -1):
        for kind in (FINISHED, FAILED, CRASHED):
            if kind.match(lines[number]):
                return kind, number
    return None


def place_of(lines: Iterable[str]) -> str:
    """Return the innermost line of Python in the thread that crashed; empty if nothing tells it."""
    crashed = False
    for line in lines:
        if thread := THREAD.match(line):
            crashed = thread[1] == "Current thread"
        elif crashed and (match := PLACE.match(line)):
            return f" in {match[3]} ({match[1]}, line {match[2]})"
    return ""


def last_said(lines: Iterable[str]) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(list(lines)) if line.strip()), "")


def uncaught(lines: Sequence[str]) -> str | None:
    """Return the exception with which a log ends that the frame of a job did not see; None if with none.

    It stands behind the last record, unindented, after a traceback or, as a `SyntaxError` does, alone; in
    an exception group `|` stands before it. Its message may have several lines.
    """
    traceback, goes_on, found = False, False, None
    for line in (BEFORE.sub("", line) for line in lines):
        goes_on = goes_on and not OTHER.match(line)
        if goes_on:
            found = f"{found}\n{line}"
        elif RECORD.match(line):
            traceback, found = False, None
        elif TRACEBACK in line:
            traceback = True
        elif ERROR.match(line) or (traceback and RAISED.match(line)):
            traceback, goes_on, found = False, True, line
    return found


def explain(log: Path, name: str) -> str | None:
    """Say in one line why the job of a log failed; None if it finished.

    Args:
        log: its log.
        name: what to call it, if the log does not say.
    """
    lines = log.read_text(errors="replace").splitlines()
    kind, number = last_word(lines) or (None, 0)
    if kind is FINISHED:
        return None
    if kind is FAILED:
        return FAILED.match(lines[number])[1]
    if kind is CRASHED:
        what = CRASHED.match(lines[number])[1]
        advice = NEXT["Bus error" if what.startswith("Bus error") else "crash"]
        return f"{name} crashed: {what}{place_of(lines[number:])}. Log: {log}. Next: {advice}{AGAIN}"
    if (exception := uncaught(lines)) is not None:
        return f"{name} failed: {one_line(exception).rstrip('.')}. Log: {log}. Next: {NEXT['failed']}{AGAIN}"
    if not last_said(lines):
        return (
            f"{name} ended before its first word; Snakemake's message above tells why. Log: {log}. Next: "
            f"{NEXT['failed']}{AGAIN}"
        )
    return (
        f"{name} was killed, or is still running on a cluster; its log ends with: {last_said(lines)!r}. "
        f"Log: {log}. Next: {NEXT['killed']}{AGAIN}"
    )


def written_since(folder: Path, since: float) -> Iterator[Path]:
    """Yield the logs in a folder that were written after a time, in seconds since the epoch."""
    for log in sorted(folder.rglob("*.log")):
        if log.stat().st_mtime >= since:
            yield log


def named_by_snakemake(logs: Iterable[str | Path]) -> list[Path]:
    """Return the logs of the jobs that Snakemake's own logs call failed."""
    found = []
    for log in filter(Path.is_file, map(Path, logs)):
        matches = map(NAMED.match, log.read_text(errors="replace").splitlines())
        found += [Path(path) for match in matches if match for path in match[1].split(", ")]
    return list(dict.fromkeys(found))


def failure_summary(folder: str | Path, since: float, snakemake_logs: Iterable[str | Path] = ()) -> str:
    """Say in one line for each job that did not finish what happened, where its log is, and what to do.

    A job that was killed, by the system for want of memory or by a scheduler, has no last word; its line
    says so.

    Args:
        folder: `logs` of an experiment.
        since: when the run started, seconds since the epoch.
        snakemake_logs: what Snakemake wrote of this run.
    """
    folder = Path(folder)
    written = list(written_since(folder, since))
    lines = [explain(log, ", ".join(log.relative_to(folder).with_suffix("").parts)) for log in written]
    told = {log.resolve() for log, line in zip(written, lines) if line}
    for log in named_by_snakemake(snakemake_logs):
        if log.resolve() in told:
            continue
        before = "after it had finished" if log in written else "before its first word"
        lines.append(f"The job of {log} failed {before}; Snakemake's message above tells why")
    found = list(dict.fromkeys(filter(None, lines)))
    return "\n".join(found) or f"No job failed by itself; see Snakemake's messages above and {folder}"

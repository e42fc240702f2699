"""The frame around every workflow script: log, threads, checked inputs, records, readable failure."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmdiff.runtime.causes import cause, chain, ran_out
from vlmdiff.runtime.environment import limit_threads, neutralise
from vlmdiff.runtime.locks import claim
from vlmdiff.runtime.secrets import RedactingFormatter
from vlmdiff.runtime.warm import hand_over

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Set by the workflow where it tells at the end of a run why jobs failed (`vlmdiff.runtime.failures`).
TOLD_AT_THE_END = "VLMDIFF_FAILURES_TOLD_AT_THE_END"
# What a user can do, by what the machine ran out of.
NEXT_STEPS = {
    "memory": "give the rule more memory (`resources:` in the config) or lower its batch size",
    "disk": "free disk space, then run snakemake again: finished jobs are kept",
    None: "fix the cause, then run snakemake again: finished jobs are kept",
}


def is_for_all(record: logging.LogRecord) -> bool:
    """Tell whether a record goes to stderr too, and not into the log alone."""
    return not getattr(record, "log_only", False)


def start_logging(log_file: str | Path | None) -> None:
    """Send log records to the rule's log file and, from INFO on, to stderr, without secrets."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file:
        handlers[0].addFilter(is_for_all)
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, mode="w"))
        # A crash of native code, of which Python sees nothing, leaves its stack in the log as well.
        faulthandler.enable(handlers[-1].stream)
    for handler in handlers:
        handler.setFormatter(RedactingFormatter(LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    # Matplotlib subsets fonts with fontTools, which tells every step of it.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    # Which weights a fallback font lacks is nobody's concern.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def describe(snakemake: Any) -> str:
    """Name a job as its rule and wildcards, e.g. `train_dictionary[dictionary=base, layer=2]`."""
    wildcards = ", ".join(f"{key}={value}" for key, value in snakemake.wildcards.items())
    return f"{snakemake.rule}[{wildcards}]" if wildcards else str(snakemake.rule)


def next_step(error: BaseException) -> str:
    """Return what a user can do about a failure."""
    if isinstance(error, KeyboardInterrupt):
        return "run snakemake again: finished jobs are kept, trainings resume"
    return NEXT_STEPS[next(filter(None, map(ran_out, chain(error))), None)]


def tell_failure(log: logging.Logger, name: str, error: BaseException, log_file: str | None) -> None:
    """Write traceback and cause of a failure into the log, the cause last, in one line.

    The run repeats that line at its end. Where nothing does, it goes to stderr too.
    """
    if not isinstance(error, KeyboardInterrupt):
        log.error("%s failed", name, exc_info=error, extra={"log_only": True})
    # A message may end its sentence by itself.
    text = cause(error).rstrip(".")
    log.error(
        "%s failed: %s. Log: %s. Next: %s", name, text, log_file, next_step(error),
        extra={"log_only": TOLD_AT_THE_END in os.environ},
    )  # fmt: skip


@contextmanager
def job(snakemake: Any) -> Iterator[logging.Logger]:
    """Run a script's body with logging and threads set; a failure ends in one line that helps.

    In a local run of many jobs, one that has imported the large libraries runs the script (`runtime.warm`).
    Inputs are compared with what the jobs that wrote them left behind; after the body, outputs are recorded
    (`runtime.records`).

    Args:
        snakemake: the object that Snakemake hands to a script.
    """
    if snakemake.threads == 1:
        hand_over()
    log_file = snakemake.log[0] if snakemake.log else None
    neutralise()
    limit_threads(snakemake.threads)
    start_logging(log_file)
    log = logging.getLogger("vlmdiff")
    name, started, clock = describe(snakemake), datetime.now(UTC), time.monotonic()
    log.info("%s started with %d thread(s)", name, snakemake.threads)
    try:
        # Here, so that a package that is missing is told of like every other failure.
        from vlmdiff.runtime.origin import origin
        from vlmdiff.runtime.records import check_inputs, write_records

        # A job of a killed run may still make the same files, perhaps with other settings.
        with claim(f"{log_file}.lock") if log_file else nullcontext():
            check_inputs(snakemake.input)
            yield log
            facts = origin(snakemake, name, started.isoformat(timespec="seconds"), time.monotonic() - clock)
            write_records(snakemake.output, facts)
    except BaseException as error:
        tell_failure(log, name, error, log_file)
        raise SystemExit(1) from None
    log.info("%s finished after %.1f s", name, time.monotonic() - clock)

"""Many dry runs of Snakemake in little time: one process has imported it, and each dry run is a fork of it.

Run as a script it is that process: it reads the arguments of one dry run a line from stdin, as JSON, and
writes what came of it to stdout. Rules, configuration and digests are read anew in every fork.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OF_ANOTHER = "Input files updated by another job"
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
REASON = re.compile(r"^    reason: (.*)$", re.MULTILINE)
NOTHING = "Nothing to be done"


class DryRunError(RuntimeError):
    """Snakemake could not plan; the message is what it printed."""


@dataclass(frozen=True)
class Plan:
    """What a dry run plans.

    Attributes:
        jobs: how many jobs of each rule.
        starts: those of them that have a reason of their own, and not only an input that is remade.
        reasons: the reasons as Snakemake gives them, once each.
    """

    jobs: dict[str, int]
    starts: dict[str, int]
    reasons: tuple[str, ...]

    @classmethod
    def read(cls, printed: str) -> Plan:
        """Read it from what Snakemake printed.

        Raises:
            DryRunError: nothing is planned, but Snakemake does not say so.
        """
        jobs, starts, reasons = Counter(), Counter(), []
        for rule, body in JOB.findall(printed):
            found = REASON.search(body)
            reason = found[1] if found else ""
            jobs[rule] += 1
            reasons.append(f"{rule}: {reason}")
            if not reason.startswith(OF_ANOTHER):
                starts[rule] += 1
        if not jobs and NOTHING not in printed:
            raise DryRunError(printed)
        return cls(dict(jobs), dict(starts), tuple(dict.fromkeys(reasons)))


class DryRuns:
    """Dry runs in one folder, which holds the workflow and its results; use it as a context manager."""

    def __init__(self, folder: str | Path) -> None:
        """Start the process that imports Snakemake; it inherits nothing that this one has imported."""
        self.folder = Path(folder)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> DryRuns:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.process.communicate()

    def plan(self, *arguments: str) -> Plan:
        """Return what Snakemake plans, given these arguments.

        Raises:
            DryRunError: it stopped with an error.
        """
        self.process.stdin.write(json.dumps(["--dry-run", "--cores", "2", *arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise DryRunError("the process of dry runs has ended")
        code, printed = json.loads(line)
        if code != 0:
            raise DryRunError(printed)
        return Plan.read(printed)


def run_in_fork(arguments: Sequence[str]) -> tuple[int, str]:
    """Run Snakemake in a fork of this process; return its exit code and what it printed."""
    from snakemake.cli import main

    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
                main(list(arguments))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed.seek(0)
        return code, printed.read()


def serve() -> None:
    """Answer requests until stdin ends."""
    import pandas  # noqa: F401
    import pydantic  # noqa: F401
    from snakemake.cli import get_argument_parser

    # It looks for plugins, which stay known.
    get_argument_parser()
    for line in sys.stdin:
        answer = run_in_fork(json.loads(line))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()

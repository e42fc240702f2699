"""Runs of pytest in children of one warm process: heavy libraries are imported once."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mutation.calls import Calls

TIMEOUT = -1
LONGEST = 3600.0  # seconds of all tests without a fault
HERE = Path(__file__).parents[1]
COMMON = ("-q", "-p", "no:cacheprovider", "-m", "not long", "--no-header", "--tb=short")


def run_tests(
    checkout: Path, tests: Sequence[str], log: Path, limit: float, prepare: Callable[[], None]
) -> tuple[int, float]:
    """Run tests of a copied checkout in a child, up to the first that fails.

    Returns:
        pytest's exit status, or TIMEOUT, and seconds.
    """

    def run() -> int:
        prepare()
        return pytest.main([*COMMON, "-x", *tests])

    return in_child(run, checkout, log, limit)


def collect(checkout: Path, tests: Sequence[str], log: Path) -> None:
    """Import tests and what they test into this process, for its children."""
    kept = [os.dup(1), os.dup(2)]
    try:
        enter(checkout, log)
        pytest.main([*COMMON, "--collect-only", *tests])
    finally:
        for number, own in zip((1, 2), kept):
            os.dup2(own, number)
            os.close(own)


def note_calls(checkout: Path, tests: Sequence[str], log: Path) -> dict:
    """Run tests of a copied checkout in a child; return libraries used and `Calls.table`.

    Raises:
        RuntimeError: pytest could not run them.
    """
    output = log.with_name("calls.json")

    def run() -> int:
        calls = Calls(checkout / "workflow_scripts")
        status = pytest.main([*COMMON, *tests], plugins=[calls])
        modules = sorted(name for name, module in list(sys.modules.items()) if is_library(module))
        output.write_text(json.dumps({"modules": modules, "tests": calls.table()}))
        return int(status)

    status, _ = in_child(run, checkout, log, LONGEST)
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the run without a fault ended with {status}:\n{log.read_text()[-2000:]}")
    return json.loads(output.read_text())


def is_library(module: object) -> bool:
    """Tell whether a module comes from an installed package."""
    return "site-packages" in (getattr(module, "__file__", None) or "")


def warm_up(modules: Sequence[str]) -> None:
    """Import libraries, so that children need not."""
    for name in modules:
        # What a test put in place of a module, or what needs a certain order.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def in_child(work: Callable[[], int], checkout: Path, log: Path, limit: float) -> tuple[int, float]:
    """Fork, work in the folder of a checkout, and wait; after `limit` seconds end the child and its own."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = int(prepared(work, checkout, log))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    while time.monotonic() - started < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            kill_group(child)
            return os.waitstatus_to_exitcode(status), time.monotonic() - started
        time.sleep(0.02)
    kill_group(child)
    os.waitpid(child, 0)
    return TIMEOUT, time.monotonic() - started


def kill_group(child: int) -> None:
    """End a child and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def prepared(work: Callable[[], int], checkout: Path, log: Path) -> int:
    """Work in a session of its own, in the folder of a checkout."""
    os.setsid()
    enter(checkout, log)
    return work()


def enter(checkout: Path, log: Path) -> None:
    """Go to a checkout, with the output in a file and modules from there."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    os.chdir(checkout)
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]
    os.environ.pop("PYTHONPATH", None)

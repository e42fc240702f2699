"""Snakemake as a process of its own, in a copy of the checkout, with the jobs that it has started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from dependable.checkout import CONFIG

SCRIPT = re.compile(r"\.snakemake/scripts/tmp\w+?\.(\w+)\.py$")
END_S = 600.0


class RunError(RuntimeError):
    """Snakemake failed although nobody killed anything."""


@dataclass(frozen=True)
class Job:
    """A running script of a rule."""

    process: psutil.Process
    rule: str

    def alive(self) -> bool:
        """Tell whether it still runs; one that nobody has waited for yet does not."""
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def age(self) -> float:
        """Return how many seconds ago it began."""
        return time.time() - self.process.create_time()


def command(*arguments: str) -> list[str]:
    """Return the command line of Snakemake on the small experiment."""
    return [sys.executable, "-m", "snakemake", "--configfile", CONFIG, *arguments]


def environment() -> dict[str, str]:
    """Return the environment of a user's shell: the copy's library is its own, not this checkout's."""
    values = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**values, "OMP_WAIT_POLICY": "PASSIVE"}


def run_to_the_end(checkout: Path, *arguments: str) -> str:
    """Run Snakemake and return what it printed.

    Raises:
        RunError: it failed.
    """
    done = subprocess.run(
        command(*arguments), cwd=checkout, env=environment(), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise RunError(f"Snakemake failed in {checkout}:\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout + done.stderr


class Run:
    """A Snakemake process, the leader of its own process group."""

    def __init__(self, checkout: Path, arguments: list[str], log: Path) -> None:
        """Start it; what it prints is added to `log`."""
        self.log = log
        self.printed_before = log.stat().st_size if log.is_file() else 0
        with log.open("a") as file:
            self.main = subprocess.Popen(
                command(*arguments),
                cwd=checkout,
                env=environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.process = psutil.Process(self.main.pid)

    def jobs(self) -> list[Job]:
        """Return the scripts that run now, the oldest first."""
        found = []
        try:
            children = self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        for child in children:
            try:
                names = [SCRIPT.search(word) for word in child.cmdline()[1:2]]
            except psutil.Error:
                continue
            found += [Job(child, name[1]) for name in names if name]
        return sorted((job for job in found if job.alive()), key=lambda job: job.process.create_time())

    def ended(self) -> bool:
        """Tell whether Snakemake itself has ended."""
        return self.main.poll() is not None

    def wait(self) -> int:
        """Wait for Snakemake itself to end and return its exit status."""
        return self.main.wait(timeout=END_S)

    def output(self) -> str:
        """Return what this process has printed so far."""
        with self.log.open() as file:
            file.seek(self.printed_before)
            return file.read()

    def finished_jobs(self) -> int:
        """Return how many jobs Snakemake has seen finish."""
        return len(re.findall(r"^Finished jobid:", self.output(), re.MULTILINE))

    def planned_jobs(self) -> int:
        """Return how many jobs are planned; 0 until Snakemake has said so."""
        found = re.search(r"^total +(\d+)$", self.output(), re.MULTILINE)
        return int(found[1]) if found else 0

    def kill_main(self) -> None:
        """Kill Snakemake alone; its jobs live on."""
        self.main.kill()
        self.main.wait()

    def kill_group(self) -> None:
        """Kill Snakemake and all that it has started."""
        os.killpg(self.main.pid, signal.SIGKILL)
        self.main.wait()

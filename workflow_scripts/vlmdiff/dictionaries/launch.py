"""Starting the processes that train one dictionary together, and waiting for them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmdiff.dictionaries import training_process
from vlmdiff.dictionaries.interruption import TrainingStoppedError
from vlmdiff.runtime.files import replacing

log = logging.getLogger(__name__)
# How torchrun tells of a process that the system ended.
SIGNAL = re.compile(r"Signal \d+ \((SIG\w+)\) received by PID")
# What processes say that were left alone, which is a consequence.
LOST_ANOTHER = re.compile(r"DistBackendError|DistNetworkError|Connection (closed|reset)|Broken pipe", re.I)


class TrainingFailedError(RuntimeError):
    """One of the processes failed; the message is its own."""


def train_in_processes(arguments: Mapping[str, Any], threads: int) -> None:
    """Call `train_dictionary` in `devices` processes on each of `nodes` nodes, and wait for them.

    On one node torchrun starts them. On several srun does, within the nodes that Slurm has given to this job.
    Their logs become this process's; they get SIGTERM if this one does, and all save and stop after the same
    step.

    Args:
        arguments: of `train_dictionary`, plain values and paths.
        threads: of each process.

    Raises:
        TrainingFailedError: a process failed, or several nodes are asked for outside of Slurm.
        TrainingStoppedError: this process got SIGTERM; the state is saved.
    """
    stage, work = arguments["stage"], Path(arguments["checkpoints"])
    settings = work.with_name(f"{work.name}.json")
    with replacing(settings) as temporary:
        temporary.write_text(json.dumps(arguments, default=str))
    try:
        command = [
            *launcher(stage["devices"], stage["nodes"]),
            "-m",
            training_process.__name__,
            str(settings),
        ]
        run(command, environment(threads, stage["nodes"]), pass_on=stage["nodes"] == 1)
    finally:
        settings.unlink(missing_ok=True)


def launcher(devices: int, nodes: int) -> list[str]:
    """Return the command that starts a Python module in all processes.

    Raises:
        TrainingFailedError: several nodes, but not within Slurm.
    """
    if nodes == 1:
        run_all = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*run_all, f"--nproc-per-node={devices}"]
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        raise TrainingFailedError(
            f"nodes: found {nodes}, but this is not a job of Slurm; use `--workflow-profile profiles/slurm`, "
            "or set the dictionary's `nodes` to 1 and its `devices` to those of this machine"
        )
    # The step of this very process holds the job's processors and cards; the new one shares them.
    tasks = [f"--nodes={nodes}", f"--ntasks={nodes * devices}", f"--ntasks-per-node={devices}"]
    return ["srun", "--overlap", "--kill-on-bad-exit=1", *tasks, sys.executable]


def environment(threads: int, nodes: int) -> dict[str, str]:
    """Return the environment of the processes: the library's path, their threads.

    What Slurm tells of the step of this very process, which has one node, is left out for srun: it knows
    the nodes of the whole job.
    """
    kept = ("SLURM_JOB_ID", "SLURM_CONF")
    ours = {
        name: value
        for name, value in os.environ.items()
        if nodes == 1 or not name.startswith("SLURM_") or name in kept
    }
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**ours, "PYTHONPATH": os.pathsep.join(path), **dict.fromkeys(counts, str(threads))}


def run(command: list[str], variables: Mapping[str, str], pass_on: bool) -> None:
    """Run the processes, log what they say, and raise if one of them fails.

    Args:
        command: what starts them.
        variables: their environment.
        pass_on: pass SIGTERM on to the command. Slurm tells all processes of a job itself, and srun would
            kill what it has started.
    """
    log.info("starting %s", " ".join(command))
    said: list[str] = []
    with (
        subprocess.Popen(
            command,
            env=variables,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=not pass_on,
        ) as child,
        told_to_stop(child if pass_on else None) as stopped,
    ):
        for line in child.stdout:
            log.info("%s", line.rstrip())
            said += [line.strip()] if line.strip() else []
        child.wait()
    if child.returncode == 0:
        return
    reason = first_reason(said) or f"the launcher ended with {child.returncode} and said: {said[-1:]}"
    if stopped:
        raise TrainingStoppedError(reason)
    raise TrainingFailedError(reason)


def first_reason(said: Iterable[str]) -> str | None:
    """Return why the processes ended, as the first of them said that did not only lose another one.

    A process that the system ended says nothing; its launcher names the signal.

    Args:
        said: what processes and launcher wrote, line by line.
    """
    reasons, ended = [], []
    for line in said:
        reasons += (
            [line.partition(training_process.FAILED)[2].strip()] if training_process.FAILED in line else []
        )
        ended += [f"a process was ended by {match[1]}" for match in SIGNAL.finditer(line)]
    causes = [reason for reason in reasons if not LOST_ANOTHER.search(reason)]
    return next(iter([*causes, *ended, *reasons]), None)


@contextmanager
def told_to_stop(child: subprocess.Popen | None) -> Iterator[list[int]]:
    """Outlive SIGTERM while the context is open; yield the list of those that came, also for the child."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if child is not None:
            child.send_signal(number)

    former = signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, former)

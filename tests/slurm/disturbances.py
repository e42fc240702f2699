"""What happens to jobs on a shared cluster: cancelled, killed, out of time, requeued, node lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slurm_cluster import SlurmCluster
from workflow_runs import WorkflowRun

POLL_S = 0.3


def cancel(cluster: SlurmCluster, number: str) -> None:
    """Cancel a job, as its owner or an administrator would."""
    cluster.ask("scancel", number)


def terminate(cluster: SlurmCluster, number: str) -> None:
    """Send SIGTERM to all processes of a job, as a cluster does some time before it takes a job away."""
    cluster.ask("scancel", "--signal=TERM", number)


def kill(cluster: SlurmCluster, number: str) -> None:
    """Send SIGKILL to all processes of a job, without any notice."""
    cluster.ask("scancel", "--signal=KILL", number)


def hang(cluster: SlurmCluster, number: str) -> None:
    """Stop a job's processes and shorten its time limit to a minute, which it must then exceed."""
    cluster.ask("scancel", "--signal=STOP", number)
    cluster.ask("scontrol", "update", f"JobId={number}", "TimeLimit=1")


def requeue(cluster: SlurmCluster, number: str) -> None:
    """Take a running job away and put it back into the queue, as preemption does."""
    cluster.ask("scontrol", "requeue", number)
    cluster.wait_for("the job to be back in the queue", lambda: number in cluster.jobs("pending"))
    start_soon(cluster, number)


def lose_node(cluster: SlurmCluster, _: str) -> None:
    """Declare the node down, which ends every job on it, and bring it back."""
    lost = set(cluster.jobs("running"))
    cluster.tell("scontrol", "update", f"NodeName={cluster.host}", "State=DOWN", "Reason=a test")
    cluster.wait_for("lost jobs to leave the node", lambda: not cluster.jobs("running,completing"))
    # Not `resume()`: the node may have come back by itself, and Slurm calls that an error.
    cluster.ask("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")
    cluster.wait_for("the node to come back", lambda: not cluster.node_state().startswith("down"))
    for number in lost & set(cluster.jobs("pending")):
        start_soon(cluster, number)


def start_soon(cluster: SlurmCluster, number: str) -> None:
    """Shorten the two minutes for which Slurm holds a requeued job; at once, the node would refuse it."""
    cluster.tell("scontrol", "update", f"JobId={number}", "StartTime=now+10")


def drain(cluster: SlurmCluster, _: str) -> None:
    """Drain the node until its jobs have ended, then let it work again."""
    cluster.drain()
    cluster.wait_for("the node to be drained", lambda: cluster.node_state().startswith("drained"), 300)
    time.sleep(5)
    assert not cluster.jobs("running"), "a drained node started a job"
    cluster.resume()


@dataclass
class Disturbance:
    """One thing to be done to the first running job of a rule (or group), some time after its step began."""

    name: str
    act: Callable[[SlurmCluster, str], None]
    after_s: tuple[float, float] = (0.5, 2.5)
    jobs: list[str] = field(default_factory=list)


def disturb(cluster: SlurmCluster, run: WorkflowRun, plan: list[Disturbance], seed: int) -> list[Disturbance]:
    """Follow a run to its end and do what the plan says, each part once.

    Returns:
        The parts that were done; `jobs` holds the Slurm id of the job that each of them hit.
    """
    chance = random.Random(seed)
    waiting, done = list(plan), []
    chosen: set[str] = set()
    due: dict[str, tuple[float, Disturbance]] = {}
    while run.running():
        running = cluster.working()
        for part in list(waiting):
            number = first_job(running, part.name, chosen)
            if number is not None:
                chosen.add(number)
                due[number] = (time.monotonic() + chance.uniform(*part.after_s), part)
                waiting.remove(part)
        for number, (moment, part) in list(due.items()):
            if number not in running:
                del due[number]
                waiting.append(part)  # the job ended first: the next one of its kind is hit
            elif time.monotonic() >= moment:
                del due[number]
                part.act(cluster, number)
                part.jobs.append(number)
                done.append(part)
        time.sleep(POLL_S)
    return done


def first_job(running: dict[str, str], name: str, chosen: set[str]) -> str | None:
    """Return the first running job of a rule or group that is not to be hit already."""
    for number, comment in running.items():
        if comment.startswith(f"rule_{name}") and number not in chosen:
            return number
    return None

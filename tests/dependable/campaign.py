"""Kills at seeded random moments, restarts, until the run is done."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dependable.run import Job, Run, RunError, run_to_the_end

VICTIMS = ("job", "snakemake", "group")
POLL_S = 0.02
# Young jobs are killed while they import, old ones at work or while they write.
YOUNG_S, OLD_S = 1.0, 10.0
# So many jobs a kill are plenty; so few planned jobs might all be done before an old one is killed.
PLENTY, SCARCE = 4, 4
# The last kill comes when about so much of all jobs is done: kills are spread over early and late rules.
SPREAD = 0.8
ORPHANS_END_S = 300.0


@dataclass(frozen=True)
class Plan:
    """When and whom to kill.

    Attributes:
        victim: `job` (its script), `snakemake` (alone: its jobs live on) or `group` (everything).
        finished: so many jobs must have finished in this run.
        start: the kill follows the start of the so-manieth job after these.
        delay: seconds after that start.
    """

    victim: str
    finished: int
    start: int
    delay: float


@dataclass
class Tally:
    """What was done."""

    kills: Counter = field(default_factory=Counter)
    rules: Counter = field(default_factory=Counter)
    ages: list[float] = field(default_factory=list)
    orphans: int = 0
    runs: int = 0

    def total(self) -> int:
        """Return the number of kills."""
        return sum(self.kills.values())

    def summary(self) -> str:
        """Return one line for people."""
        kinds = ", ".join(f"{self.kills[victim]} {victim}" for victim in VICTIMS)
        rules = ", ".join(f"{rule} {count}" for rule, count in self.rules.most_common())
        return (
            f"{self.total()} kills ({kinds}; {self.orphans} orphans) in {self.runs} runs; jobs hit: {rules}"
        )


class Campaign:
    """Kills a run of the workflow in a checkout again and again.

    Args:
        checkout: copy of the project.
        arguments: of Snakemake: cores and targets.
        kills: how often.
        seed: of moments and victims.
        minutes: after that long it gives up.
        tell: takes lines of progress.
    """

    def __init__(
        self,
        checkout: Path,
        arguments: list[str],
        kills: int,
        seed: int,
        minutes: float,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.checkout, self.arguments, self.kills = checkout, arguments, kills
        self.random, self.deadline, self.tell = random.Random(seed), time.monotonic() + 60 * minutes, tell
        # Every kind of victim in turn, in random order: few kills hit each of them too.
        self.victims: list[str] = []
        self.tally, self.left_alive, self.all_jobs = Tally(), [], 0

    def run(self) -> Tally:
        """Kill and restart until all kills are done, then let it end.

        Raises:
            RunError: a run failed that nobody had killed, time is over, or the work was done too early.
        """
        while self.tally.total() < self.kills:
            run = self.start()
            if not self.strike(run):
                raise RunError(
                    f"Snakemake ended with status {run.wait()} before a kill; {self.tally.summary()}\n"
                    f"{run.output()[-6000:]}"
                )
        last = self.start()
        if status := last.wait():
            raise RunError(f"Snakemake ended with status {status}, unharmed:\n{last.output()[-6000:]}")
        self.wait_for_orphans()
        return self.tally

    def start(self) -> Run:
        """Start Snakemake, after its lock is taken away if it was killed."""
        if time.monotonic() > self.deadline:
            raise RunError(f"time is over; {self.tally.summary()}")
        if any((self.checkout / ".snakemake" / "locks").glob("*.lock")):
            run_to_the_end(self.checkout, "--unlock", *self.arguments)
        self.tally.runs += 1
        return Run(self.checkout, self.arguments, self.checkout / "snakemake.log")

    def plan(self, run: Run) -> Plan:
        """Choose the next victim and moment; earlier ones where few jobs are left for many kills."""
        if not self.victims:
            self.victims = self.random.sample(VICTIMS, len(VICTIMS))
        planned = run.planned_jobs()
        self.all_jobs = self.all_jobs or planned
        wanted = SPREAD * self.all_jobs * self.tally.total() / self.kills
        finished = max(0, min(int(wanted) - (self.all_jobs - planned), planned - SCARCE))
        jobs_a_kill = planned / (self.kills - self.tally.total())
        start = self.random.randint(1, min(4, max(1, int(jobs_a_kill / 2))))
        oldest = OLD_S if jobs_a_kill >= PLENTY else OLD_S / 2
        if planned <= SCARCE or jobs_a_kill < 1:
            oldest = YOUNG_S
        delay = self.random.uniform(0, self.random.choice((YOUNG_S, oldest)))
        return Plan(self.victims.pop(), finished, start, delay)

    def strike(self, run: Run) -> bool:
        """Wait for the planned moment and kill; return False if Snakemake ends before."""
        while not run.planned_jobs():
            if run.ended():
                return False
            time.sleep(POLL_S)
        plan, moment = self.plan(run), None
        started: set[int] = set()
        while not run.ended():
            jobs = run.jobs()
            if run.finished_jobs() >= plan.finished:
                started.update(job.process.pid for job in jobs)
            if moment is None and len(started) >= plan.start:
                moment = time.monotonic() + plan.delay
            due = moment is not None and time.monotonic() >= moment and jobs
            if due and self.kill(run, plan.victim, jobs):
                return True
            time.sleep(POLL_S)
        return False

    def kill(self, run: Run, victim: str, jobs: list[Job]) -> bool:
        """Kill, and count; return False if the victim had just ended by itself."""
        hit = [self.random.choice(jobs)] if victim == "job" else jobs
        ages = [job.age() for job in hit]
        if victim == "job":
            try:
                hit[0].process.kill()
            except psutil.NoSuchProcess:
                return False
            if not run.wait():
                return False
        elif victim == "snakemake":
            run.kill_main()
            orphans = [job for job in jobs if job.alive()]
            self.left_alive += orphans
            self.tally.orphans += len(orphans)
        else:
            run.kill_group()
        self.tally.kills[victim] += 1
        self.tally.rules.update(job.rule for job in hit)
        self.tally.ages += ages
        done = run.finished_jobs()
        named = ", ".join(f"{job.rule} ({age:.1f} s old)" for job, age in zip(hit, ages, strict=True))
        self.tell(f"kill {self.tally.total()}/{self.kills}: {victim} beside {named}; {done} jobs were done")
        return True

    def wait_for_orphans(self) -> None:
        """Wait until no job of a killed run lives: what it may still write must not spoil anything.

        Raises:
            RunError: one lives on and on.
        """
        deadline = time.monotonic() + ORPHANS_END_S
        while living := [job for job in self.left_alive if job.alive()]:
            if time.monotonic() > deadline:
                raise RunError(f"jobs of killed runs still live: {living}")
            time.sleep(POLL_S)

    def clean_up(self) -> None:
        """End jobs of killed runs that still live."""
        for job in self.left_alive:
            if job.alive():
                job.process.kill()

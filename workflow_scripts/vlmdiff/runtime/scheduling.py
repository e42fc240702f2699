"""What is set up when a run begins: how Snakemake's scheduler spends its time, and how jobs start."""

from __future__ import annotations

from typing import Any

from vlmdiff.runtime import warm

# Jobs and seconds of `--max-jobs-per-timespan` where nobody says otherwise.
DEFAULT_LIMIT = (100, 1.0)


def begin(workflow: Any) -> None:
    """Set up a run, in the process that starts its jobs.

    Args:
        workflow: Snakemake's.
    """
    lift_default_limit(workflow.scheduler)
    warm.start(len(list(workflow.dag.needrun_jobs())), workflow.local_exec)


def lift_default_limit(scheduler: Any) -> None:
    """Let a scheduler start jobs without the default limit of 100 a second; a limit of the user's own stays.

    For the sake of a limit Snakemake 9 sets an alarm at each look at the waiting jobs, and each alarm makes
    it look again: once a second for every job that has ended. In a run of 614 jobs that took a quarter of a
    core.

    Args:
        scheduler: Snakemake's, before it starts.
    """
    limiter = getattr(scheduler, "job_rate_limiter", None)
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == DEFAULT_LIMIT:
        scheduler.job_rate_limiter = None

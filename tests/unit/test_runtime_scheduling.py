"""The default limit of starts is lifted, another one is not, and Snakemake's own alarms stay away."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from vlmdiff.runtime.digest import LIBRARY
from vlmdiff.runtime.scheduling import DEFAULT_LIMIT, lift_default_limit


def limited(text: str) -> SimpleNamespace:
    return SimpleNamespace(job_rate_limiter=JobRateLimiter(MaxJobsPerTimespan.parse_choice(text)))


def test_the_default_is_what_this_snakemake_has():
    said = get_argument_parser().get_default("max_jobs_per_timespan")
    limit = JobRateLimiter(MaxJobsPerTimespan.parse_choice(said))
    assert (limit.max_jobs, limit.timespan) == DEFAULT_LIMIT


@pytest.mark.parametrize(("text", "kept"), [("100/1s", False), ("100/2s", True), ("5/1s", True)])
def test_only_the_default_is_lifted(text, kept):
    scheduler = limited(text)
    lift_default_limit(scheduler)
    assert (scheduler.job_rate_limiter is not None) == kept


def test_a_scheduler_without_a_limit_stays_as_it_is():
    for scheduler in (SimpleNamespace(), SimpleNamespace(job_rate_limiter=None)):
        before = vars(scheduler).copy()
        lift_default_limit(scheduler)
        assert vars(scheduler) == before


SNAKEFILE = """
import sys, threading
sys.path.insert(0, config["library"])
from vlmdiff.runtime.scheduling import lift_default_limit
onstart:
    if config["lifted"]:
        lift_default_limit(workflow.scheduler)
onsuccess:
    print("alarms:", sum(isinstance(one, threading.Timer) for one in threading.enumerate()))
rule all:
    input: [f"{number}.txt" for number in range(12)]
rule one:
    output: "{number}.txt"
    shell: "sleep 0.1; touch {output}"
"""


@pytest.mark.parametrize("lifted", [True, False])
def test_a_real_run_has_no_alarms(tmp_path, lifted):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config"]
    command += [f"lifted={lifted}", f"library={LIBRARY.parent}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    alarms = int((run.stdout + run.stderr).split("alarms: ")[1].split()[0])
    assert alarms == 0 if lifted else alarms > 3

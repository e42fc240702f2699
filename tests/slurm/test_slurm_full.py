"""The small workflow on a real Slurm, disturbed as on a shared cluster: the same results."""

import time

import pytest
from dependable.compare import compared_files, differences, leftovers
from disturbances import Disturbance, cancel, disturb, drain, hang, kill, lose_node, requeue, terminate
from workflow_runs import RESULTS, WorkflowRun

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.workflow]

# Each hits the first job of its rule or group that runs long enough.
PLAN = [
    ("train_world_vlm", cancel),
    ("extract_activations", cancel),
    ("extract_activations", terminate),
    ("extract_activations", lose_node),
    ("train_dictionary", cancel),
    ("train_dictionary", terminate),
    ("train_dictionary", kill),
    ("train_dictionary", requeue),
    ("feature_statistics", cancel),
    ("feature_statistics", drain),
    ("contrast_concept", cancel),
    ("lexical_filter", hang),
    ("rank_features", kill),
    ("evaluate_ablation", cancel),
    ("evaluate_head_ablation", requeue),
    ("figures_concepts", cancel),
    ("figures_heads", kill),
]
# A job hit in one of these ways failed for Snakemake, which must submit it again, asking for more.
FAILED = (cancel, terminate, kill, hang)


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    """Run the workflow on this machine, undisturbed."""
    folder = tmp_path_factory.mktemp("local")
    WorkflowRun(folder, "--quiet", "rules").succeed()
    return folder


@pytest.fixture(scope="module")
def slurm_run(tmp_path_factory, cluster):
    """Run it on the cluster: interrupted, killed, then disturbed to its end."""
    folder = tmp_path_factory.mktemp("slurm")
    interrupted = WorkflowRun(folder, cluster=cluster)
    follow(cluster, interrupted, jobs=3)
    interrupted.interrupt()
    assert interrupted.end() != 0
    cluster.wait_for("the interrupted run's jobs to be cancelled", lambda: not cluster.jobs())

    killed = WorkflowRun(folder, cluster=cluster)
    follow(cluster, killed, jobs=3)
    killed.kill()
    cluster.tell("scancel", "--name", killed.run_id())
    cluster.wait_for("the killed run's jobs to be cancelled", lambda: not cluster.jobs())
    WorkflowRun(folder, "--unlock").succeed()

    last = WorkflowRun(folder, cluster=cluster)
    plan = [Disturbance(name, act) for name, act in PLAN]
    done = disturb(cluster, last, plan, seed=0)
    last.succeed()
    return folder, [interrupted, killed, last], done


def follow(cluster, run, jobs):
    """Wait until a run has submitted some jobs and one of them is running."""
    while run.running() and not (len(run.submitted()) >= jobs and cluster.jobs("running")):
        time.sleep(0.3)
    assert run.running(), run.output()[-3000:]


def test_the_results_are_those_of_an_undisturbed_local_run(local_run, slurm_run):
    folder, _, _ = slurm_run
    assert len(compared_files(local_run / RESULTS)) > 100
    assert differences(folder / RESULTS, local_run / RESULTS) == []
    assert leftovers(folder / RESULTS) == []


def test_every_disturbance_hit_a_job(slurm_run):
    _, _, done = slurm_run
    assert sorted((part.name, part.act.__name__) for part in done) == sorted(
        (name, act.__name__) for name, act in PLAN
    )


def test_jobs_that_failed_were_submitted_again_with_more_memory_and_time(cluster, slurm_run):
    _, runs, done = slurm_run
    jobs = [cluster.job(number) for number in runs[-1].submitted()]
    for part in (part for part in done if part.act in FAILED):
        hit = cluster.job(part.jobs[0])
        assert hit["JobState"] in ("CANCELLED", "FAILED", "TIMEOUT"), hit
        again = [
            job for job in jobs if job["Comment"] == hit["Comment"] and int(job["JobId"]) > int(hit["JobId"])
        ]
        assert again, f"{hit['Comment']} was not submitted again"
        assert megabytes(again[0]["MinMemoryNode"]) > megabytes(hit["MinMemoryNode"])


def test_jobs_that_slurm_took_away_ran_again_under_their_number(cluster, slurm_run):
    _, _, done = slurm_run
    for part in (part for part in done if part.act is requeue):
        job = cluster.job(part.jobs[0])
        assert (job["Restarts"], job["JobState"]) == ("1", "COMPLETED")


def test_a_job_beyond_its_time_limit_ended_as_such(cluster, slurm_run):
    _, _, done = slurm_run
    (hung,) = [part for part in done if part.act is hang]
    assert cluster.job(hung.jobs[0])["JobState"] == "TIMEOUT"


def test_the_scheduler_was_not_flooded(slurm_run):
    _, runs, _ = slurm_run
    last = runs[-1].output()
    assert last.count("Group job figures_") > 4
    assert len(runs[-1].submitted()) < last.count("rule ")


def test_a_further_call_finds_nothing_to_do(cluster, slurm_run):
    folder, _, _ = slurm_run
    run = WorkflowRun(folder, "--dry-run", cluster=cluster).succeed()
    assert "Nothing to be done" in run.output()


def megabytes(text: str) -> float:
    """Read an amount of memory as Slurm writes it."""
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]

"""The Slurm profile in few jobs: requests, growth on retry, groups, a cancelled job. Under three minutes."""

from pathlib import Path

import pytest
import yaml
from dependable.compare import differences
from disturbances import Disturbance, cancel, disturb, terminate
from rule_texts import rules
from workflow_runs import CONFIG, RESULTS, ROOT, WorkflowRun

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DATA = "results/dependable/world/data/{}/samples.jsonl"
PROFILE = ROOT / "profiles" / "slurm"


def with_resources(folder: Path, **rules: dict[str, int]) -> Path:
    """Write the configuration with `resources:` of some rules, and return its file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(CONFIG.read_text()) | {"resources": rules}))
    return path


def test_the_profile_names_rules_that_exist_and_repeats_the_default_profile():
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    names = set(rules())
    assert set(profile["groups"]) <= names
    assert {name for name in names if name.startswith("plot_")} - set(profile["groups"]) == {
        "plot_model_accuracy"
    }
    assert set(profile["group-components"]) <= set(profile["groups"].values())
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    assert {key: profile[key] for key in default} == default


def test_short_jobs_of_one_kind_travel_in_one_slurm_job(cluster, tmp_path):
    names = ["text_train", "text_val", "spatial_val"]
    run = WorkflowRun(tmp_path, *map(DATA.format, names), cluster=cluster).succeed()
    assert run.output().count("rule generate_world:") == 3
    assert len(run.submitted()) == 1
    job = cluster.job(run.submitted()[0])
    assert job["JobState"] == "COMPLETED"
    # Three jobs of 1 GB that take turns, each of which may take 5 minutes.
    assert (job["NumCPUs"], job["MinMemoryNode"], job["TimeLimit"]) == ("1", "1000M", "00:15:00")
    assert all((tmp_path / DATA.format(name)).stat().st_size for name in names)


def test_a_job_that_exceeds_its_memory_gets_more_when_it_is_tried_again(cluster, tmp_path):
    config = with_resources(tmp_path, generate_world={"mem_mb": 260, "runtime": 20})
    run = WorkflowRun(tmp_path, DATA.format("text_val"), cluster=cluster, config=config).succeed()
    jobs = [cluster.job(number) for number in run.submitted()]
    asked = [(job["MinMemoryNode"], job["TimeLimit"]) for job in jobs]
    assert asked == [("260M", "00:20:00"), ("390M", "00:30:00"), ("520M", "00:40:00")][: len(jobs)]
    assert [job["JobState"] for job in jobs] == ["FAILED"] * (len(jobs) - 1) + ["COMPLETED"]
    assert len(jobs) > 1
    for job in jobs[:-1]:
        assert "Exceeded job memory limit" in Path(job["StdOut"]).read_text()


def test_a_gpu_is_asked_for_where_the_configuration_says_so(cluster, tmp_path):
    targets = [DATA.format("text_val"), "results/dependable/config.yaml"]
    config = with_resources(tmp_path, generate_world={"gpu": 1})
    partitions = ["--slurm-partition-config", str(PROFILE / "partitions.yaml")]
    run = WorkflowRun(tmp_path, *targets, *partitions, cluster=cluster, config=config).succeed()
    jobs = [cluster.job(number) for number in run.submitted()]
    assert {(job["Partition"], job.get("TresPerJob", "none")) for job in jobs} == {
        ("gpu", "gres:gpu:1"),
        ("cpu", "none"),
    }


def test_a_cancelled_job_is_tried_again_and_the_dictionary_is_that_of_a_local_run(cluster, tmp_path):
    target = "results/dependable/dictionaries/base/seed_0/layer_0/sae_weights.safetensors"
    WorkflowRun(tmp_path / "local", target).succeed()
    run = WorkflowRun(tmp_path / "slurm", target, cluster=cluster)
    done = disturb(cluster, run, [Disturbance("train_dictionary", cancel)], seed=0)
    run.succeed()
    assert [part.name for part in done] == ["train_dictionary"]
    assert cluster.job(done[0].jobs[0])["JobState"] == "CANCELLED"
    assert differences(tmp_path / "slurm" / RESULTS, tmp_path / "local" / RESULTS) == []


def test_two_nodes_train_one_dictionary_and_stop_together(two_nodes, tmp_path):
    values = yaml.safe_load(CONFIG.read_text())
    values["dictionaries"]["base"] |= {"nodes": 2, "steps": 2000}
    values["resources"] = {"train_dictionary": {"runtime": 30}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    target = "results/dependable/dictionaries/base/seed_0/layer_0/sae_weights.safetensors"
    WorkflowRun(tmp_path / "whole", target, cluster=two_nodes, config=config).succeed()
    run = WorkflowRun(tmp_path / "cut", target, cluster=two_nodes, config=config)
    done = disturb(two_nodes, run, [Disturbance("train_dictionary", terminate, (14.0, 18.0))], seed=0)
    run.succeed()
    jobs = [two_nodes.job(number) for number in run.submitted()][-2:]
    assert [(job["NumNodes"], job["NumTasks"]) for job in jobs] == [("2", "2")] * 2
    assert [part.name for part in done] == ["train_dictionary"]
    said = Path(two_nodes.job(done[0].jobs[0])["StdOut"]).read_text()
    assert "TrainingStoppedError: stopped by SIGTERM after step" in said
    assert differences(tmp_path / "cut" / RESULTS, tmp_path / "whole" / RESULTS) == []

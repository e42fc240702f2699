"""The tiny experiment and a part of the small one, each run once for all tests of a session."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny_experiment
import yaml
from dependable.checkout import PART, copy_checkout
from dependable.checkout import RESULTS as SMALL
from dependable.run import run_to_the_end
from traces_of_jobs import noting


@pytest.fixture(scope="session")
def endpoint() -> Iterator[ThreadingHTTPServer]:
    """An endpoint that answers every chat request."""
    with tiny_experiment.endpoint() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_config(endpoint: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the tiny experiment, with the endpoint that describes features."""
    file = tmp_path_factory.mktemp("tiny") / "config.yaml"
    file.write_text(yaml.safe_dump(tiny_experiment.settings(endpoint.server_port), sort_keys=False))
    return file


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the jobs of the session's runs note what they imported and opened."""
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="session")
def tiny_run(
    request: pytest.FixtureRequest, tiny_config: Path, traces: Path
) -> subprocess.CompletedProcess[str]:
    """Run everything from nothing, once."""
    if not request.config.getoption("--reuse-run"):
        subprocess.run(["rm", "-rf", str(tiny_experiment.ROOT / tiny_experiment.RESULTS)], check=True)
    run = tiny_experiment.snakemake(*tiny_experiment.TARGETS, config=tiny_config, **noting(traces))
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-6000:]
    return run


@pytest.fixture(scope="session")
def described_run(
    tiny_run: subprocess.CompletedProcess[str], tiny_config: Path, traces: Path
) -> subprocess.CompletedProcess[str]:
    """Describe the features of the tiny experiment."""
    run = tiny_experiment.snakemake("descriptions", config=tiny_config, **noting(traces))
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a part of the small experiment in a copy of the project: on one core, late jobs first."""
    checkout = copy_checkout(tmp_path_factory.mktemp("small"))
    late = (
        f"{SMALL}/dictionaries/base/seed_0/layer_1/cfg.json",
        f"{SMALL}/world/data/general_val/samples.jsonl",
    )
    run_to_the_end(checkout, "--cores", "1", *PART, "--scheduler", "greedy", "--prioritize", *late)
    return checkout

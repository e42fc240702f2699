"""Fixtures of the Slurm tests: a cluster for the session, and the reason where it cannot run."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, missing_programs

PACKAGES = "munge slurmctld slurmd slurm-client"


def reason_to_skip() -> str:
    """Say what is missing here and how to get it; nothing if all is there."""
    missing = missing_programs()
    if missing:
        return f"{missing[0]} not found: `make slurm-packages` installs {PACKAGES}"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "this environment has no Slurm executor: run `make slurm`, which has its own"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything in this folder, with the reason, where it cannot run."""
    reason = reason_to_skip()
    for item in items:
        if reason and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@contextmanager
def started(**size: int) -> Iterator[SlurmCluster]:
    """Start a Slurm, in a folder with a short name (sockets need one)."""
    folder = Path(tempfile.mkdtemp(prefix="slurm_"))
    with SlurmCluster(folder, memory_mb=12000, **size) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """A Slurm of one node with four processors."""
    with started(cpus=4) as running:
        yield running


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[SlurmCluster]:
    """A Slurm of two nodes with two processors each."""
    with started(cpus=2, nodes=2) as running:
        yield running

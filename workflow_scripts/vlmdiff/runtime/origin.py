"""Where a result comes from: job, inputs, software, version of the project, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmdiff.runtime.records import read_record, record_path
from vlmdiff.runtime.warm import usage

PACKAGES = (
    "snakemake", "torch", "transformers", "pytorch-lightning", "h5py", "numpy", "numba", "pandas",
    "scipy", "matplotlib", "safetensors",
)  # fmt: skip


def software() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git(*arguments: str) -> str | None:
    """Return what git says about the project; None if it is no checkout or there is no git."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def project_version() -> dict[str, Any]:
    """Return the commit of the project's checkout, and whether tracked files differ from it."""
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def processor() -> str:
    """Return the name of the processor."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Return processor, cores, system, and the accelerators that the job has looked at."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    # Only a job that has loaded torch can have used an accelerator.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["accelerators"] = [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ]
    if "SLURM_JOB_ID" in os.environ:
        found["slurm_job"] = os.environ["SLURM_JOB_ID"]
    return found


def recorded_inputs(inputs: Iterable[str | Path]) -> dict[str, Any]:
    """Return the recorded checksums of the input files, None for those without a record."""
    found: dict[str, Any] = {}
    for path in inputs:
        place = record_path(path)
        record = read_record(place) if place is not None else None
        files = record["files"] if record else None
        found[str(path)] = files and {name: file.get("xxh3_128") for name, file in files.items()}
    return found


def origin(snakemake: Any, name: str, started: str, seconds: float) -> dict[str, Any]:
    """Say where the outputs of a job come from, in plain values.

    Args:
        snakemake: what Snakemake hands to a script.
        name: the job, its rule and wildcards.
        started: when it started, UTC.
        seconds: how long it took.
    """
    params = dict(snakemake.params.items())
    return {
        "job": name,
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "threads": snakemake.threads,
        "seed": params.get("seed"),
        "code": params.get("code"),
        "started": started,
        "seconds": round(seconds, 2),
        **usage(),
        "log": str(snakemake.log[0]) if snakemake.log else None,
        "inputs": recorded_inputs(snakemake.input),
        "software": software(),
        "project": project_version(),
        "machine": machine(),
    }

"""The workflow run by Snakemake, on this machine or on a Slurm cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from slurm_cluster import SlurmCluster

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "dependable" / "config.yaml"
RESULTS = Path("results") / "dependable"
# Short waits: a test's jobs last seconds. The profile's own values suit jobs of minutes and hours.
PATIENCE = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "20"]
ON_SLURM = [
    "--workflow-profile",
    str(ROOT / "profiles" / "slurm"),
    "--slurm-status-command",
    "squeue",
    *PATIENCE,
]


class WorkflowRun:
    """One call of Snakemake in a folder of its own, which holds its results.

    Args:
        folder: working folder; later calls in it go on with what is there.
        arguments: targets and options.
        cluster: where jobs run; this machine if None.
        config: configuration file.
    """

    def __init__(
        self, folder: Path, *arguments: str, cluster: SlurmCluster | None = None, config: Path = CONFIG
    ):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--configfile", str(config), *(ON_SLURM if cluster else ["--cores", "2"]), *arguments]
        environment = cluster.environment if cluster else dict(os.environ)
        self.log = folder / f"snakemake_{len(list(folder.glob('snakemake_*.log')))}.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, "OMP_WAIT_POLICY": "PASSIVE"},
                stdout=out,
                stderr=out,
                start_new_session=True,
                # A shell that runs this in the background ignores Ctrl-C, and its children would too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def running(self) -> bool:
        """Tell whether Snakemake still runs."""
        return self.process.poll() is None

    def output(self) -> str:
        """Return everything that Snakemake said."""
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        """Wait for Snakemake and return its exit status."""
        return self.process.wait()

    def succeed(self) -> WorkflowRun:
        """Wait for Snakemake, which must succeed."""
        assert self.end() == 0, self.output()[-6000:]
        return self

    def interrupt(self) -> None:
        """Stop Snakemake as Ctrl-C does: it cancels its jobs."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill Snakemake and what it runs on this machine; jobs on the cluster go on without it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.end()

    def submitted(self) -> list[str]:
        """Return the Slurm ids of the jobs that this call submitted."""
        return re.findall(r"submitted with SLURM jobid (\d+)", self.output())

    def run_id(self) -> str:
        """Return the name that all Slurm jobs of this call bear."""
        return re.findall(r"SLURM run ID: (\S+)", self.output())[0]

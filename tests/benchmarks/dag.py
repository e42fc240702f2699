"""Planning the paper's whole experiment: number of jobs, and the dry run beside `snakemake --version`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Goal, measure, ratio_row

ROOT = Path(__file__).parents[2]
CONFIGS = ("llava_more", "paligemma2")


def snakemake(*arguments: str, folder: str) -> str:
    """Run Snakemake on this checkout with results elsewhere; return what it printed."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        folder,
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"snakemake {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def dry_run(config: str, folder: str) -> str:
    """Plan everything of a configuration."""
    (Path(folder) / "resources").exists() or (Path(folder) / "resources").symlink_to(ROOT / "resources")
    return snakemake(
        "-n", "--quiet", "rules", "--configfile", str(ROOT / f"config/{config}.yaml"), folder=folder
    )


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure the paper's two configurations."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for config in CONFIGS:
            plan = snakemake("-n", "--configfile", str(ROOT / f"config/{config}.yaml"), folder=folder)
            jobs = int(re.findall(r"^total\s+(\d+)", plan, re.MULTILINE)[0])
            times = measure(
                {
                    "dry run": lambda config=config: dry_run(config, folder),
                    "version": lambda: snakemake("--version", folder=folder),
                },
                min(rounds, 3),
                warmup=1,
            )
            found.append(ratio_row("DAG", config, "jobs", jobs, Goal(most=2000)))
            found.append(
                ratio_row(
                    "DAG", config, "dry run / --version", times["dry run"] / times["version"], Goal(most=3)
                )
            )
    return found

"""A copy of this checkout, so that a run shares no file with any other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = "tests/dependable/config.yaml"
RESULTS = "results/dependable"
# A part of the small experiment: world trainings, shards, warm starts, snapshots, statistics.
PART = (
    f"{RESULTS}/dictionaries/base/seed_0/metrics.csv",
    f"{RESULTS}/dictionaries/adapted/seed_0/metrics.csv",
    f"{RESULTS}/features/statistics/adapted/seed_0/vlm/general_val/layer_1/statistics.parquet",
)


def copy_checkout(folder: Path) -> Path:
    """Copy the files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        # A file may be deleted in the working tree and still be tracked.
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder

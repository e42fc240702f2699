"""Are two results folders the same? Bytes are compared; nothing is left out that is not named here."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from vlmdiff.runtime.files import WORKPLACE

# Times that something took or happened: logs, Snakemake's measurements, what is made from these, and the page
# that says when jobs ran; each with its record.
TIMES = (
    *("benchmarks/", "logs/", "provenance.md", "provenance/provenance.md.json"),
    *("costs.csv", "figures/costs.pdf", "figures/costs.png", "figures/costs.svg"),
    *("provenance/costs.csv.json", "provenance/figures/costs."),
)
# Records that hold a time beside what must be the same.
MODEL_RECORD, JOB_RECORDS = "training.json", "provenance/"
TIME_KEYS = {"wall_s", "started", "seconds", "cpu_seconds", "memory_max_mb"}


def compared_files(folder: Path) -> dict[str, Path]:
    """Return the files that are compared, by their path in the results folder."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if not name.startswith(TIMES)}


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two results folders, one line for each file."""
    left, right = compared_files(one), compared_files(other)
    found = [f"only in {one}: {name}" for name in sorted(left.keys() - right.keys())]
    found += [f"only in {other}: {name}" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        if not same_content(name, left[name], right[name]):
            found.append(f"differs: {name}")
    return found


def same_content(name: str, one: Path, other: Path) -> bool:
    """Compare two files by their bytes, shards by what is in them, records without their times."""
    if one.suffix == ".h5":
        return shard_content(one) == shard_content(other)
    if one.name == MODEL_RECORD or name.startswith(JOB_RECORDS):
        return timeless(one) == timeless(other)
    return one.read_bytes() == other.read_bytes()


def timeless(path: Path) -> dict[str, object]:
    """Return a record without its times, and without the number of the Slurm job that made its files."""
    record = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIME_KEYS}
    record.get("machine", {}).pop("slurm_job", None)
    return record


def shard_content(path: Path) -> dict[str, object]:
    """Return the bytes of every data set and every attribute of an HDF5 file."""
    content: dict[str, object] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        for key, value in item.attrs.items():
            array = np.asarray(value)
            content[f"{name}@{key}"] = (str(array.dtype), array.shape, array.tolist())
        if isinstance(item, h5py.Dataset):
            array = item[()]
            values = array.tolist() if array.dtype == object else array.tobytes()
            content[name] = (str(array.dtype), array.shape, values)

    with h5py.File(path, "r") as file:
        visit("", file)
        file.visititems(visit)
    return content


def leftovers(folder: Path) -> list[str]:
    """Return what killed processes have left in a results folder: workplaces, locks, checkpoints."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if WORKPLACE.fullmatch(path.name) or path.suffix in (".lock", ".ckpt") or path.name == "latest.pt":
            found.append(name)
    return found

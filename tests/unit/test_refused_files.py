"""File systems without locks, and files that the system does not let us read: none is called damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PLAIN = {
    "shard": 240, "inputs": None, "record": ["files", "job"], "parquet": [1, 2, 3], "csv": [1, 2, 3],
    "dictionary": 16, "rows": [1, 8], "cfg": 16, "samples": 1, "picture": [9, 7], "size": [9, 7],
    "figure": [7, 9, 3], "missing": "picture.png", "npz": ["a"], "pt": ["a"], "safetensors": 4,
}  # fmt: skip
# Mapped into memory, they are opened but never read.
MAPPED = {"rows", "dictionary", "safetensors"}
REASONS = {
    "OPEN 13": "Permission denied",
    "OPEN 116": "Stale file handle",
    "OPEN 24": "Too many open files",
    "READ 5": "Input/output error",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """Run `refused_files.py` where nothing can be locked, as a user's shell may set HDF5 up."""
    if not sys.platform.startswith("linux") or shutil.which("gcc") is None:
        pytest.skip("needs Linux and gcc")
    folder = tmp_path_factory.mktemp("refused")
    library = folder / "refusals.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, TESTS / "refusals.c", "-ldl"], check=True
    )
    paths = os.pathsep.join(map(str, (TESTS, TESTS.parent / "workflow_scripts")))
    variables = {"LD_PRELOAD": str(library), "NO_LOCKS": "37", "HDF5_USE_FILE_LOCKING": "TRUE"}
    done = subprocess.run(
        [sys.executable, TESTS / "refused_files.py", folder / "files"],
        env={**os.environ, **variables, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_everything_is_written_and_read_without_locks(found):
    assert found["no locks"]
    assert {name: ["", json.dumps(value)] for name, value in PLAIN.items()} == found["plain"]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("how", REASONS)
def test_what_the_system_refuses_is_not_called_damaged(found, how, name):
    kind, message = found[f"{how} {name}"]
    if how.startswith("READ") and name in MAPPED:
        assert (kind, json.loads(message)) == ("", PLAIN[name])
        return
    assert kind == "StorageError", (kind, message)
    assert REASONS[how] in message and "do not delete it" in message
    assert "damaged" not in message and "remake" not in message

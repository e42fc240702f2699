"""Fetch one row and look at it from both sides, each in a process of its own: what fails, fails alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from published import compare
from published.rows import Row
from vlmdiff.dictionaries.importing import fetch_dictionary
from vlmdiff.hub.checkpoints import fetch_checkpoint
from vlmdiff.runtime.secrets import redacted

ROOT = Path(__file__).parents[2]
WORKS, DIFFERS, FAILS, UNCOMPARED = "works", "differs", "fails", "reads"


class LookError(RuntimeError):
    """A look failed; the message is one line."""


@dataclass(frozen=True)
class Side:
    """How looks are run.

    Attributes:
        python: interpreter of the other libraries' side.
        dtype: of the models.
        minutes: after which a look is stopped.
    """

    python: str = sys.executable
    dtype: str = "float32"
    minutes: float = 60.0


def look(row: Row, folder: Path, side: Side) -> dict[str, Any]:
    """Fetch a row and look at it; whatever fails is told in the result.

    Args:
        row: what is looked at.
        folder: of this row; checkpoints stay there as links into the hub's cache.
        side: how.

    Returns:
        plain values: `outcome`, `said`, `commit`, seconds and memory.
    """
    result: dict[str, Any] = {"row": row.plain(), "dtype": side.dtype}
    try:
        started = time.perf_counter()
        spec, result["commit"] = fetch(row, folder, side.dtype)
        result["fetch_s"] = time.perf_counter() - started
        result |= seen(row, spec, folder, side)
    except Exception as error:  # of the network, of damaged files, of memory: one line each
        result |= {"outcome": FAILS, "said": one_line(str(error) or repr(error), folder)}
    return result


def fetch(row: Row, folder: Path, dtype: str) -> tuple[dict[str, Any], str]:
    """Download what is missing of a row; return what a look needs to know, and the commit."""
    example = row.example
    source = f"hub:{example.repository}@{example.revision}"
    if row.kind == "format":
        noted = folder / "sources.json"
        fetch_dictionary(source, row.reads, {0: example.file}, noted)
        found = json.loads(noted.read_text())
        spec = {"format": row.reads, "path": found["paths"]["0"], "k": example.k}
        return {**spec, "release": example.release}, found["commit"]
    fetch_checkpoint(source, folder / "checkpoint")
    tower = None
    if example.vision_tower is not None:
        tower = str(folder / "vision_tower")
        fetch_checkpoint(f"hub:{example.vision_tower}@main", tower)
    commit = json.loads((folder / "checkpoint" / "hub.json").read_text())["commit"]
    spec = {"family": row.reads, "folder": str(folder / "checkpoint"), "vision_tower": tower, "dtype": dtype}
    return spec, commit


def seen(row: Row, spec: dict[str, Any], folder: Path, side: Side) -> dict[str, Any]:
    """Look from both sides and compare."""
    ours, facts = run("ours", sys.executable, spec, folder, side)
    if not row.peer:
        return {**facts, "outcome": UNCOMPARED, "said": "no other library here reads it"}
    spec = {**spec, "residuals": str(folder / "ours.npz")}
    theirs, others = run("theirs", side.python, spec, folder, side)
    if row.kind == "family":
        alike, said = compare.models(ours, theirs, side.dtype)
    else:
        alike, said = compare.dictionaries(ours, theirs)
    facts["peak_gb"] = max(facts["peak_gb"], others["peak_gb"])
    return {**facts, "outcome": WORKS if alike else DIFFERS, "said": said}


def run(
    name: str, python: str, spec: dict[str, Any], folder: Path, side: Side
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run a look in another process; return its arrays and facts.

    Raises:
        LookError: it failed, or took too long.
    """
    asked, out = folder / f"{name}.spec.json", folder / name
    asked.write_text(json.dumps(spec))
    paths = os.pathsep.join([str(ROOT / "workflow_scripts"), str(ROOT / "tests")])
    command = [python, "-m", f"published.{name}", str(asked), str(out)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            text=True,
            capture_output=True,
            timeout=60 * side.minutes,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LookError(f"{name}: took longer than {side.minutes:g} minutes (--minutes)") from None
    (folder / f"{name}.log").write_text(done.stdout + done.stderr)
    if done.returncode < 0:
        killed = signal.Signals(-done.returncode).name
        raise LookError(f"{name}: ended by {killed}; is the memory too small?")
    if done.returncode:
        raise LookError(f"{name}: {last_error(done.stderr)}")
    with np.load(out.with_suffix(".npz")) as arrays:
        return dict(arrays), json.loads(out.with_suffix(".json").read_text())


def last_error(stderr: str) -> str:
    """Return the message of the exception that ended a process: its last paragraph without indentation."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    first = next((i for i in reversed(range(len(lines))) if lines[i].startswith("Traceback")), -1)
    said = [line for line in lines[first + 1 :] if not line.startswith(" ")]
    return " ".join(said) or "it ended without a message"


def one_line(text: str, folder: Path) -> str:
    """Write an error in one line without secrets, and without places of the one who ran it.

    Args:
        text: the error.
        folder: of the row.
    """
    line = " ".join(redacted(text).split())
    for place in (str(folder), str(ROOT), os.environ.get("HF_HOME", ""), str(Path.home())):
        line = line.replace(place, "…") if len(place) > 1 else line
    return line if len(line) <= 600 else f"{line[:600]}…"

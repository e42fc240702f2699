"""Damage in the middle of a real run: one line names file and remedy, nothing else is lost."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from damage import mounting
from dependable.checkout import RESULTS, copy_checkout
from dependable.run import command, environment, run_to_the_end

BASE = f"{RESULTS}/dictionaries/base/seed_0"
TARGETS = [f"{BASE}/metrics.csv", f"{RESULTS}/activations/vlm/general_val/layers_0_1/shard_0.h5"]
VALIDATION = f"{RESULTS}/activations/base_lm/text_val/layers_0_1/shard_0.h5"

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def checkout(small_run, tmp_path) -> Path:
    """A copy of the finished run, times included."""
    return shutil.copytree(small_run, tmp_path / "copy", symlinks=True)


def fails(checkout: Path, *targets: str) -> str:
    """Run Snakemake, which must fail without a bare traceback of its own; return what it printed."""
    done = subprocess.run(
        [*command("--cores", "2"), *targets], cwd=checkout, env=environment(), text=True, capture_output=True
    )
    text = done.stdout + done.stderr
    assert done.returncode != 0, text[-3000:]
    return text


def one_line(text: str) -> str:
    """Return the line in which a job says why it failed; there is one, with the log and the next step."""
    found = set(re.findall(r"^(\w+\[?.* failed: .*)$", text, re.MULTILINE))
    assert len(found) == 1, text[-4000:]
    (line,) = found
    assert ".log" in line
    return line


def content(checkout: Path, *without: str) -> dict[str, bytes]:
    """Return all results by name but those that change with every run."""
    folder = checkout / RESULTS
    names = {str(path.relative_to(checkout)): path for path in folder.rglob("*") if path.is_file()}
    changing = (f"{RESULTS}/logs", f"{RESULTS}/benchmarks", *without)
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(changing)}


def hidden(checkout: Path) -> list[Path]:
    """Return temporary files and folders among the results."""
    return [path for path in (checkout / RESULTS).rglob(".*") if not path.name.startswith(".snakemake")]


def damage(path: Path, change) -> None:
    """Change a file's bytes without changing its time."""
    times = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flipped(data: bytes) -> bytes:
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


# Those of every kind and size are tried on the library itself (tests/unit/test_bad_shards.py).
DAMAGES = {
    "a flipped byte": lambda checkout: damage(checkout / VALIDATION, flipped),
    "a truncated shard": lambda checkout: damage(checkout / VALIDATION, lambda data: data[: len(data) // 2]),
    "another model's shard": lambda checkout: damage(
        checkout / VALIDATION, lambda _: (checkout / TARGETS[1]).read_bytes()
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_stops_its_reader_and_nothing_else(small_run, checkout, name):
    (checkout / BASE / "metrics.csv").unlink()
    before = content(checkout)
    DAMAGES[name](checkout)
    line = one_line(fails(checkout, TARGETS[0]))
    assert line.startswith("evaluate_dictionary") and VALIDATION in line
    damaged = content(checkout)
    assert {key for key in before if before[key] != damaged.get(key)} == {VALIDATION}
    assert not (checkout / BASE / "metrics.csv").exists() and hidden(checkout) == []
    # The remedy that the message names.
    (checkout / VALIDATION).unlink()
    run_to_the_end(checkout, "--cores", "2", TARGETS[0])
    mended, expected = content(checkout), content(small_run)
    for key in (VALIDATION, f"{BASE}/metrics.csv"):
        assert mended[key] == expected[key], key


def test_a_disk_that_fills_up_stops_one_job_and_can_be_mended(small_run, tmp_path):
    checkout = copy_checkout(tmp_path)
    shutil.copytree(small_run / RESULTS / "world", checkout / RESULTS / "world")
    shutil.copytree(small_run / ".snakemake" / "metadata", checkout / ".snakemake" / "metadata")
    disk = checkout / RESULTS / "activations"
    disk.mkdir()
    mounting(disk, "size=256k")
    try:
        line = one_line(fails(checkout, VALIDATION))
        assert line.startswith("extract_activations") and "no space is left" in line
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        run_to_the_end(checkout, "--cores", "2", VALIDATION)
        assert (checkout / VALIDATION).read_bytes() == (small_run / VALIDATION).read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_stops_one_job_and_loses_nothing(small_run, checkout):
    disk = checkout / RESULTS / "activations"
    kept = shutil.move(str(disk), str(checkout / "kept"))
    disk.mkdir()
    mounting(disk, "size=100m")
    try:
        (disk / Path(VALIDATION).relative_to(f"{RESULTS}/activations").parent).mkdir(parents=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        text = fails(checkout, VALIDATION)
        assert VALIDATION in text and "ead-only" in text
        assert [path for path in disk.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    disk.rmdir()
    shutil.move(kept, str(disk))
    run_to_the_end(checkout, "--cores", "2", *TARGETS)
    assert content(checkout)[VALIDATION] == content(small_run)[VALIDATION]

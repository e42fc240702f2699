"""Safe writing and claims, beside processes that are really killed."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlmdiff.runtime import files, locks

SCRIPTS = Path(files.__file__).parents[2]
WRITES = """
import sys, time
from pathlib import Path
from vlmdiff.runtime.files import replacing, replacing_folder
with {function}(Path(sys.argv[1])) as temporary:
    ({written}).write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""
FILE = WRITES.format(function="replacing", written="temporary")
FOLDER = WRITES.format(function="replacing_folder", written="temporary / 'part'")
CLAIMS = """
import sys, time
from vlmdiff.runtime.locks import claim
with claim(sys.argv[1]):
    print("claimed", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def start():
    """Return a function that starts a Python program and waits for its first line."""
    processes = []

    def run(code: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline().strip() in ("writing", "claimed")
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def as_a_new_process(monkeypatch):
    """A process sweeps a folder once, and began before those that it starts; these tests are many in one."""
    files.sweep_once.cache_clear()
    monkeypatch.setattr(locks, "STARTED", time.time() + 3600)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL


def write(target: Path, text: str) -> None:
    files.sweep_once.cache_clear()
    with files.replacing(target) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("code", [FILE, FOLDER], ids=["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next_write(start, tmp_path, code):
    process = start(code, tmp_path / "output")
    kill(process)
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".output.")
    write(tmp_path / "another", "whole")
    assert names(tmp_path) == ["another"]


@pytest.mark.parametrize("code", [FILE, FOLDER], ids=["file", "folder"])
def test_what_a_living_process_writes_stays(start, tmp_path, code):
    start(code, tmp_path / "output")
    before = names(tmp_path)
    write(tmp_path / "output", "whole")
    assert names(tmp_path) == sorted([*before, "output"])
    assert (tmp_path / "output").read_text() == "whole"


def test_a_workplace_just_made_is_not_swept(tmp_path):
    (tmp_path / ".output.abcdefgh").mkdir()
    (tmp_path / ".output.hgfedcba").mkdir()
    long_ago = time.time() - 2 * files.UNLOCKED_S
    os.utime(tmp_path / ".output.hgfedcba", (long_ago, long_ago))
    write(tmp_path / "output", "whole")
    assert names(tmp_path) == [".output.abcdefgh", "output"]


def test_files_and_folders_of_others_are_not_swept(tmp_path):
    (tmp_path / ".hidden.abcdefgh").write_text("somebody's")
    (tmp_path / ".cache.12345678").mkdir()
    (tmp_path / ".cache.12345678" / "content").touch()
    long_ago = time.time() - 2 * files.UNLOCKED_S
    os.utime(tmp_path / ".cache.12345678", (long_ago, long_ago))
    write(tmp_path / "output", "whole")
    assert names(tmp_path) == [".cache.12345678", ".hidden.abcdefgh", "output"]


def test_a_sweep_between_making_and_locking_costs_only_another_try(tmp_path, monkeypatch):
    """The sweeper is the first to lock, and removes the workplace while its owner waits for the lock."""
    waited = []

    def sweep_first(lock):
        if not waited:
            files.sweep(next(tmp_path.glob(".output.*")))
        waited.append(lock)
        locks.wait_for_lock(lock)

    monkeypatch.setattr(files, "wait_for_lock", sweep_first)
    write(tmp_path / "output", "whole")
    assert len(waited) == 2 and names(tmp_path) == ["output"]


def test_a_file_system_without_locks_is_written_to_and_never_swept(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    left = tmp_path / ".output.abcdefgh"
    left.mkdir()
    (left / files.LOCK).touch()
    write(tmp_path / "output", "whole")
    with locks.claim(tmp_path / "lock"):
        pass
    assert names(tmp_path) == [".output.abcdefgh", "output"]


def test_a_folder_that_fails_leaves_the_former_one(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), files.replacing_folder(target) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert names(tmp_path) == ["folder"] and names(target) == ["old"]


def test_a_claim_of_a_killed_process_is_free(start, tmp_path):
    kill(start(CLAIMS, tmp_path / "lock", 600))
    assert names(tmp_path) == ["lock"]
    with locks.claim(tmp_path / "lock"):
        assert names(tmp_path) == ["lock"]
    assert names(tmp_path) == []


def test_a_process_that_an_interrupted_run_left_is_ended(start, tmp_path, caplog):
    orphan = start(CLAIMS, tmp_path / "lock", 600)
    with locks.claim(tmp_path / "lock"):
        assert orphan.wait() == -signal.SIGTERM
    assert f"process {orphan.pid} of an interrupted run still makes these files" in caplog.text


def test_a_process_on_another_machine_is_waited_for(start, tmp_path, caplog, monkeypatch):
    other = start(CLAIMS, tmp_path / "lock", 1.0)
    monkeypatch.setattr(locks.socket, "gethostname", lambda: "elsewhere")
    with locks.claim(tmp_path / "lock"):
        # Nobody ended it: it went its way.
        assert other.wait() == 0
    assert f"waiting for process {other.pid} on" in caplog.text and "end it there" in caplog.text


def test_a_number_that_belongs_to_another_process_now_is_left_alone(start, tmp_path):
    bystander = start(CLAIMS, tmp_path / "other", 600)
    (tmp_path / "lock").write_text("")
    assert locks.holds(bystander.pid, tmp_path / "other")
    assert not locks.holds(bystander.pid, tmp_path / "lock")
    named = locks.Holder(bystander.pid, locks.socket.gethostname(), 0.0)
    assert not locks.ask_to_stop(tmp_path / "lock", named, asked=False)
    assert bystander.poll() is None


def test_the_older_process_gives_way(start, tmp_path, monkeypatch):
    newer = start(CLAIMS, tmp_path / "lock", 600)
    monkeypatch.setattr(locks, "STARTED", time.time() - 3600)
    with (
        pytest.raises(locks.SupersededError, match=f"process {newer.pid} on"),
        locks.claim(tmp_path / "lock"),
    ):
        pass
    assert newer.poll() is None and names(tmp_path) == ["lock"]


JOB = """
import sys, time
from types import SimpleNamespace
from vlmdiff.runtime.job import job
snakemake = SimpleNamespace(
    log=[sys.argv[1]], threads=1, rule="a_rule", wildcards={}, input=[], output=[], params={}
)
with job(snakemake):
    print("claimed", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_job_of_a_killed_run_is_ended_by_the_same_job_of_the_next_run(start, tmp_path):
    """Else it could overwrite the new job's outputs, with those of other settings."""
    orphan = start(JOB, tmp_path / "a.log", 600)
    # Snakemake deletes the log of a job that it starts again; the claim must not go with it.
    (tmp_path / "a.log").unlink()
    time.sleep(0.1)
    successor = start(JOB, tmp_path / "a.log", 0)
    assert orphan.wait() == -signal.SIGTERM and successor.wait() == 0
    assert f"process {orphan.pid} of an interrupted run" in (tmp_path / "a.log").read_text()
    assert names(tmp_path) == ["a.log"]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_a_files_digest_is_sha256_of_its_content(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert files.file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()

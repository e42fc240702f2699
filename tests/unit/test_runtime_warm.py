"""Jobs that a warm process forks run, end and fail as if they had been started as usual."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from vlmdiff.runtime import warm
from vlmdiff.runtime.scheduling import begin

SCRIPTS = Path(warm.__file__).parents[2]
BEGIN = "from vlmdiff.runtime.warm import hand_over\nhand_over()\n"
SERVE = "from vlmdiff.runtime import warm; warm.LIBRARIES, warm.PATIENCE_S = {libraries}, 0.3; warm.serve()"


def wait_for(happens, seconds=20.0):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


class Warm:
    """A warm process, and jobs that ask it."""

    def __init__(self, folder: Path, libraries: tuple[str, ...] = ("xxhash",)) -> None:
        self.folder, self.place = folder, folder / "warm" / "jobs"
        self.place.parent.mkdir()
        self.variables = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        code = SERVE.format(libraries=libraries)
        command = [sys.executable, "-c", code, str(self.place), str(os.getpid())]
        self.process = subprocess.Popen(command, env=self.variables)
        wait_for(self.place.exists)

    def begin(self, body: str, *arguments: str, **variables: str) -> subprocess.Popen:
        """Start a job as Snakemake would."""
        script = self.folder / "job.py"
        script.write_text(BEGIN + body)
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**self.variables, warm.PLACE: str(self.place), **variables},
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, body: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """Run a job to its end."""
        job = self.begin(body, *arguments, **variables)
        out, err = job.communicate(timeout=60)
        return subprocess.CompletedProcess([], job.returncode, out, err)


@pytest.fixture
def jobs(tmp_path):
    found = Warm(tmp_path)
    yield found
    found.process.kill()
    found.process.wait()


TOLD = """
import json, os, sys
print(json.dumps({
    "parent": os.getppid(), "folder": os.getcwd(), "arguments": sys.argv[1:], "mine": os.environ["MINE"],
    "place": os.environ.get("VLMDIFF_WARM_SOCKET"), "main": __name__, "file": __file__,
    "there": "xxhash" in sys.modules, "umask": os.umask(0),
}))
"""


def test_a_job_has_its_own_folder_arguments_and_environment(jobs):
    before = os.umask(0o027)
    try:
        done = jobs.run(TOLD, "a b", MINE="here")
    finally:
        os.umask(before)
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert told == {
        "parent": jobs.process.pid, "folder": str(jobs.folder), "arguments": ["a b"], "mine": "here",
        "place": None, "main": "__main__", "file": str(jobs.folder / "job.py"), "there": True, "umask": 0o027,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no more')", 1, "no more"),
        ("raise ValueError('a mistake')", 1, "ValueError: a mistake"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit, sys\natexit.register(print, 'the end', file=sys.stderr)", 0, "the end"),
        (
            "import sys, threading, time\n"
            "threading.Thread(target=lambda: (time.sleep(.3), print('late', file=sys.stderr))).start()",
            0,
            "late",
        ),
    ],
)
def test_a_job_ends_as_its_script_does(jobs, body, status, said):
    done = jobs.run(body)
    assert done.returncode == status
    assert said in done.stderr and bool(said) == bool(done.stderr)


def test_one_job_knows_nothing_of_another(jobs):
    assert jobs.run("import sys\nsys.left = __builtins__.left = 1\nleft = 2").returncode == 0
    assert jobs.run("import sys\nassert not hasattr(sys, 'left') and 'left' not in globals()").returncode == 0


def test_jobs_run_side_by_side(jobs):
    waits = "import pathlib, time\nopen(__import__('sys').argv[1], 'w').close()\n"
    waits += "while not pathlib.Path(__import__('sys').argv[2]).exists():\n    time.sleep(.02)"
    first, second = jobs.begin(waits, "one", "two"), None
    wait_for((jobs.folder / "one").exists)
    second = jobs.begin(waits, "two", "one")
    assert (first.wait(20), second.wait(20)) == (0, 0)


SLEEPS = """
import os, signal, sys, time
def told(number, frame):
    print("asked to stop", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, told)
open("pid", "w").write(str(os.getpid()))
time.sleep(60)
"""


def job_of(jobs) -> psutil.Process:
    """Return the process that runs the job, when it has begun."""
    wait_for(lambda: (jobs.folder / "pid").exists() and (jobs.folder / "pid").read_text())
    return psutil.Process(int((jobs.folder / "pid").read_text()))


def test_a_signal_is_passed_on(jobs):
    waiting = jobs.begin(SLEEPS)
    job_of(jobs)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.communicate(timeout=20)[0] == "asked to stop\n"
    assert waiting.returncode == 7


def test_a_job_that_snakemake_kills_ends(jobs):
    waiting = jobs.begin(SLEEPS)
    job = job_of(jobs)
    waiting.kill()
    wait_for(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)
    assert jobs.run("print('still there')").stdout == "still there\n"


def test_who_asks_and_says_nothing_keeps_no_other_waiting(jobs):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(jobs.place))
        assert jobs.run("print('served')").stdout == "served\n"
        assert silent.recv(1) == b""


def test_a_warm_process_that_is_killed_fails_its_jobs_and_later_ones_start_as_usual(jobs):
    waiting = jobs.begin(SLEEPS)
    job_of(jobs)
    jobs.process.kill()
    assert waiting.wait(20) == warm.LOST
    job_of(jobs).kill()
    assert jobs.run(TOLD, MINE="x").returncode == 0


def test_a_job_of_another_python_starts_as_usual(jobs, tmp_path):
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    script = tmp_path / "other.py"
    script.write_text(BEGIN + TOLD)
    variables = {**jobs.variables, warm.PLACE: str(jobs.place), "MINE": "x"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SCRIPTS), *sys.path]))
    done = subprocess.run([other, script], env=variables, text=True, capture_output=True, check=True)
    assert json.loads(done.stdout)["parent"] == os.getpid()


def test_it_ends_with_the_process_that_started_it(tmp_path):
    """Its folder goes too."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom vlmdiff.runtime import warm\n"
        "warm.LIBRARIES = ()\nwarm.start(100, True)\n"
        "place = Path(os.environ[warm.PLACE])\n"
        "while not place.exists():\n    time.sleep(.02)\nprint(place)"
    )
    variables = {**os.environ, "PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path)}
    variables.pop(warm.SWITCH, None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, text=True, capture_output=True, check=True
    )
    place = Path(done.stdout.strip())
    assert place.parent.parent == tmp_path
    wait_for(lambda: not place.parent.exists())


@pytest.mark.parametrize(
    ("jobs", "is_local", "switch"), [(warm.FEWEST_JOBS - 1, True, ""), (99, False, ""), (99, True, "0")]
)
def test_it_is_not_started_where_it_is_of_no_use(monkeypatch, jobs, is_local, switch):
    monkeypatch.delenv(warm.PLACE, raising=False)
    monkeypatch.setenv(warm.SWITCH, switch)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was started"))
    warm.start(jobs, is_local)
    assert warm.PLACE not in os.environ


def test_a_run_tells_how_many_jobs_it_has(monkeypatch):
    graph = SimpleNamespace(needrun_jobs=lambda: iter(range(33)))
    asked = []
    monkeypatch.setattr(warm, "start", lambda *given: asked.append(given))
    begin(SimpleNamespace(scheduler=None, local_exec=True, dag=graph))
    assert asked == [(33, True)]


@pytest.mark.long
def test_a_job_finds_the_large_libraries_with_one_thread(tmp_path):
    jobs = Warm(tmp_path, warm.LIBRARIES)
    try:
        done = jobs.run(
            "import sys\nassert {'torch', 'transformers', 'pytorch_lightning'} <= set(sys.modules)\n"
            "import torch, matplotlib\nprint(torch.get_num_threads(), matplotlib.get_backend(), "
            "torch.cuda.is_initialized())"
        )
    finally:
        jobs.process.kill()
    assert done.stdout == "1 agg False\n", done.stderr


def test_usage_is_of_this_process_and_its_children():
    used = warm.usage()
    assert used["cpu_seconds"] > 0 and used["memory_max_mb"] > 10

"""Jobs that start warm: a process that has imported the large libraries forks them; they need not import.

Snakemake starts a Python for each job, and most of a short job's time are imports. In a local run of many
jobs the workflow starts one process more, which imports them once. A job that begins asks it for a fork that
runs its script, and waits; signals, streams, folder, environment and exit status are passed on. The fork has
done nothing but import, so results are the same. Without that process (a cluster, few jobs, a GPU,
several threads a job, `VLMDIFF_WARM=0`) jobs start as usual.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from vlmdiff.runtime.environment import limit_threads, neutralise

PLACE = "VLMDIFF_WARM_SOCKET"
SWITCH = "VLMDIFF_WARM"
# Fewer jobs are done before the libraries are imported.
FEWEST_JOBS = 20
# What most jobs import, from the largest on; none of it starts a thread or looks for a GPU.
LIBRARIES = (
    "torch", "transformers.models.llava.modeling_llava", "transformers.models.llava.processing_llava",
    "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
    "pytorch_lightning", "pandas", "pyarrow.parquet", "numba", "scipy.stats", "safetensors.torch",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "tokenizers", "PIL.Image", "jaxtyping", "xxhash",
)  # fmt: skip
HEADER_BYTES = 8
LOOK_EVERY_S, PATIENCE_S = 1.0, 5.0
# As of a shell whose command cannot be followed any more.
LOST = 1


def start(jobs: int, is_local: bool) -> None:
    """Start the process that forks jobs, if it is worth it, in the process that runs the workflow.

    Args:
        jobs: how many are going to run.
        is_local: they run on this machine.
    """
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    if not is_local or jobs < FEWEST_JOBS or os.environ.get(SWITCH) == "0" or has_gpu:
        return
    if not (hasattr(os, "fork") and hasattr(socket, "send_fds")):
        return
    place = Path(tempfile.mkdtemp(prefix="vlmdiff-")) / "jobs"
    os.environ[PLACE] = str(place)
    code = f"from {__name__} import serve; serve()"
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-c", code, str(place), str(os.getpid())], **nowhere)


def hand_over() -> None:
    """Let the warm process run this job's script, and end as it ends; return if there is none."""
    place = os.environ.get(PLACE)
    if not place or not Path(place).exists():
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect(place)
        text = json.dumps(request()).encode()
        socket.send_fds(channel, [len(text).to_bytes(HEADER_BYTES, "big")], [0, 1, 2])
        channel.sendall(text)
        with channel.makefile("r") as answers:
            if pid := answers.readline().strip():
                follow(int(pid), answers.readline)


def request() -> dict[str, Any]:
    """Return what makes this process the job that it is."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "argv": [str(Path(sys.argv[0]).absolute()), *sys.argv[1:]],
        "path": sys.path,
        "executable": sys.executable,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "umask": umask,
    }


def follow(pid: int, answer: Callable[[], str]) -> NoReturn:
    """Pass signals on to a job until it ends, and end in the same way."""

    def forward(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    signal.signal(signal.SIGTERM, forward)
    # An interrupt goes to all processes of a terminal, the job too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = answer().strip()
    status = int(told) if told else LOST
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


class Server:
    """Forks jobs until the process that started it has ended.

    Args:
        place: where its socket will lie.
        owner: process number of the workflow.
    """

    def __init__(self, place: Path, owner: int) -> None:
        self.place, self.owner = place, owner
        self.channels: dict[socket.socket, int] = {}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def serve(self) -> None:
        """Import the libraries, then answer."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        neutralise()
        # As for every job that it forks; libraries read it when they are imported.
        limit_threads(1)
        for library in LIBRARIES:
            with suppress(ImportError):
                importlib.import_module(library)
        # What is there by now is never freed: forks need not copy it to look.
        gc.collect()
        gc.freeze()
        ended, told = os.pipe()
        for end in (ended, told):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(told)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.listener.bind(str(self.place))
        self.listener.listen()
        while os.getppid() == self.owner or self.channels:
            ready, _, _ = select.select([self.listener, ended, *self.channels], [], [], LOOK_EVERY_S)
            if ended in ready:
                with suppress(BlockingIOError):
                    os.read(ended, 4096)
            self.reap()
            for channel in [one for one in ready if one in self.channels]:
                self.give_up(channel)
            if self.listener in ready:
                self.accept()

    def reap(self) -> None:
        """Tell how jobs have ended."""
        for channel, pid in list(self.channels.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                with suppress(OSError):
                    channel.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                channel.close()
                del self.channels[channel]

    def give_up(self, channel: socket.socket) -> None:
        """End a job that nobody waits for any more: its Snakemake job was killed."""
        if channel in self.channels:
            with suppress(ProcessLookupError):
                os.kill(self.channels[channel], signal.SIGKILL)

    def accept(self) -> None:
        """Fork a job."""
        channel, _ = self.listener.accept()
        # Whoever asks says at once what it wants, or keeps all others waiting.
        channel.settimeout(PATIENCE_S)
        try:
            header, streams, _, _ = socket.recv_fds(channel, HEADER_BYTES, 3)
            asked = json.loads(received(channel, int.from_bytes(header, "big")))
        except (OSError, ValueError):
            channel.close()
            return
        if asked["executable"] == sys.executable and len(streams) == 3:
            pid = os.fork()
            if pid == 0:
                self.become(channel, streams, asked)
            self.channels[channel] = pid
            with suppress(OSError):
                channel.sendall(f"{pid}\n".encode())
        else:
            channel.close()
        for stream in streams:
            os.close(stream)

    def become(self, channel: socket.socket, streams: list[int], asked: dict[str, Any]) -> NoReturn:
        """Become the job that was asked for, in a fork of this process."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for one in (self.listener, channel, *self.channels):
            one.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update({name: value for name, value in asked["environment"].items() if name != PLACE})
        # What imports have freed lies in pieces, in which a job's tensors would be a tenth slower.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        os.umask(asked["umask"])
        os.chdir(asked["folder"])
        sys.argv, sys.path = asked["argv"], asked["path"]
        os._exit(run(Path(sys.argv[0])))


def received(channel: socket.socket, size: int) -> bytes:
    """Read so many bytes.

    Raises:
        ConnectionError: there are fewer.
    """
    parts: list[bytes] = []
    while missing := size - sum(map(len, parts)):
        part = channel.recv(missing)
        if not part:
            raise ConnectionError("the job has ended")
        parts.append(part)
    return b"".join(parts)


def run(script: Path) -> int:
    """Run a script as Python would; return the status with which it would end."""
    main = sys.modules["__main__"].__dict__
    for name in [one for one in main if not one.startswith("__") or one in ("__file__", "__spec__")]:
        del main[name]
    main.update(__file__=str(script), __spec__=None, __name__="__main__", __doc__=None)
    status = 0
    try:
        exec(compile(script.read_bytes(), str(script), "exec"), main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    # As the interpreter ends: threads first.
    with suppress(Exception):
        threading._shutdown()
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    return status


def usage() -> dict[str, float]:
    """Return seconds of processor time and most memory in MB of this process and of its children."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in both), 2),
        "memory_max_mb": round(max(one.ru_maxrss for one in both) / 1024, 2),
    }


def serve() -> None:
    """Be the process that forks jobs; its arguments are where its socket lies and the workflow's process."""
    place = Path(sys.argv[1])
    try:
        Server(place, int(sys.argv[2])).serve()
    finally:
        shutil.rmtree(place.parent, ignore_errors=True)

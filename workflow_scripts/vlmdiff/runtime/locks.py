"""Locks that the system lets go when their process ends, and claims: one process at a time for some files.

When Snakemake is killed, its jobs may live on. The restarted run starts the same jobs again, and two
processes would write the same files; with other settings, the older would overwrite the newer one's results.
So the newest process makes them: older ones end, or are ended.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

POLL_S = 0.1
TELL_EVERY_S = 60.0
# What file systems without locks answer.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL}
STARTED = time.time()
log = logging.getLogger(__name__)


class SupersededError(RuntimeError):
    """A newer process makes the same files."""


class LockState(enum.Enum):
    """What came of trying to lock a file."""

    MINE = "locked by this process now"
    TAKEN = "locked by another process"
    UNKNOWN = "the file system has no locks"


def lock_at_once(file: IO) -> LockState:
    """Try to lock an open file for as long as it is open.

    Raises:
        OSError: the file cannot be locked for another reason than that somebody else holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockState.TAKEN
    except OSError as error:
        if error.errno in NO_LOCKS:
            return LockState.UNKNOWN
        raise
    return LockState.MINE


def wait_for_lock(file: IO) -> None:
    """Wait until nobody else holds a lock on an open file; return at once where there are no locks."""
    while lock_at_once(file) is LockState.TAKEN:
        time.sleep(POLL_S)


def same_file(file: IO, path: Path) -> bool:
    """Tell whether an open file is still the one at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: a process, its machine, and when it began."""

    pid: int
    host: str
    started: float

    @classmethod
    def read(cls, file: IO) -> Holder | None:
        """Return who a lock file names; None if its holder has not written yet."""
        file.seek(0)
        words = file.read().split()
        return cls(int(words[0]), words[1], float(words[2])) if len(words) == 3 else None

    def write(self, file: IO) -> None:
        """Put the name into a lock file."""
        file.truncate(0)
        file.write(f"{self.pid} {self.host} {self.started}\n")
        file.flush()


@contextmanager
def claim(path: str | Path) -> Iterator[None]:
    """Hold the sole right to make some files; a process that an interrupted run left behind is ended first.

    Such a process on this machine gets SIGTERM, on which trainings save their state. One on another machine
    is waited for, and the log says where it is. Where the file system has no locks nothing is held.

    Args:
        path: lock file, named after what is made, outside of declared outputs; removed at the end.

    Raises:
        SupersededError: this process is itself such a leftover: the claim is a newer process's.
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    file = take(place)
    try:
        yield
    finally:
        if same_file(file, place):
            place.unlink()
        file.close()


def take(place: Path) -> IO:
    """Return the open lock file, locked, with this process's name in it."""
    while True:
        # Not truncated: until it is locked, it says who holds it.
        file = place.open("a+")
        wait_for_holder(file, place)
        if same_file(file, place):
            Holder(os.getpid(), socket.gethostname(), STARTED).write(file)
            return file
        file.close()


def wait_for_holder(file: IO, place: Path) -> None:
    """Wait for the lock; ask who holds it to stop, and tell every minute what is waited for."""
    told, asked = -math.inf, False
    while lock_at_once(file) is LockState.TAKEN:
        holder = Holder.read(file)
        if holder is not None and time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            asked = ask_to_stop(place, holder, asked)
        time.sleep(POLL_S)


def ask_to_stop(place: Path, holder: Holder, asked: bool) -> bool:
    """Send SIGTERM, once, to the holder of a claim if it runs here; log what is waited for."""
    if holder.started > STARTED:
        raise SupersededError(
            f"process {holder.pid} on {holder.host} began later and makes the same files ({place}); this one "
            "belongs to a run that was interrupted, and stops. There is nothing to do"
        )
    if not asked and holder.host == socket.gethostname() and holds(holder.pid, place):
        log.warning("process %d of an interrupted run still makes these files; it gets SIGTERM", holder.pid)
        with suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGTERM)
        return True
    log.warning(
        "waiting for process %d on %s, left behind by an interrupted run, which still makes these files; end "
        "it there to go on at once (it holds %s)", holder.pid, holder.host, place,
    )  # fmt: skip
    return asked


def holds(pid: int, place: Path) -> bool:
    """Tell whether a process here has the lock file open; its number alone may be another process's now."""
    with suppress(OSError):
        wanted = place.stat()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False

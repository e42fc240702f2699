"""Write in a workplace, then rename: an output is whole or absent, and leftovers of killed processes go.

A workplace is a folder `.<name>.<8 characters>` beside the output. Its owner holds a lock on a file in it,
which the system lets go when the process ends, however it ends. The next process that writes into the same
folder removes workplaces whose lock nobody holds, and never one of a process that lives.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from vlmdiff.runtime.disk_errors import FULL, explaining
from vlmdiff.runtime.locks import LockState, lock_at_once, same_file, wait_for_lock

LOCK = ".lock"
WORKPLACE = re.compile(r"\..+\.[a-z0-9_]{8}")
# Between making a workplace and locking it lie two system calls; an unlocked one older than this is nobody's.
UNLOCKED_S = 60.0


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, of the same name in a workplace; rename it to `path` if the body succeeds.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    target = Path(path)
    with workplace(target) as place:
        with explaining(target, FULL):
            yield place / target.name
        with explaining(target):
            (place / target.name).chmod(0o644)
            (place / target.name).replace(target)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `path` if the body succeeds.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    target = Path(path)
    with workplace(target) as place:
        made, former = place / target.name, place / "former"
        with explaining(target):
            made.mkdir()
        with explaining(target, FULL):
            yield made
        with explaining(target):
            made.chmod(0o755)
            if target.exists():
                target.rename(former)
            made.rename(target)


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that is this process's alone, and remove it at the end."""
    with explaining(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(target.parent.resolve())
        place, lock = make_workplace(target)
    try:
        yield place
    finally:
        # In this order: network file systems keep a removed file that is open under another name.
        lock.close()
        shutil.rmtree(place, ignore_errors=True)


def make_workplace(target: Path) -> tuple[Path, IO]:
    """Make a workplace and lock it; try again if a sweep was faster than the lock."""
    while True:
        place = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        with suppress(FileNotFoundError):
            lock = (place / LOCK).open("w")
            wait_for_lock(lock)
            if same_file(lock, place / LOCK):
                return place, lock
            lock.close()


@cache
def sweep_once(folder: Path) -> None:
    """Remove, once a process, the workplaces in a folder whose owners have ended."""
    with os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if WORKPLACE.fullmatch(entry.name)]
    for place in found:
        # Somebody else may sweep it at the same time, or may own it and be done.
        with suppress(OSError):
            if stat.S_ISDIR(place.lstat().st_mode):
                sweep(place)


def sweep(place: Path) -> None:
    """Remove a workplace if its owner has ended.

    Raises:
        OSError: it is gone already, or not this user's.
    """
    if not (place / LOCK).exists():
        if time.time() - place.stat().st_mtime > UNLOCKED_S:
            place.rmdir()
        return
    with (place / LOCK).open("r+") as lock:
        if lock_at_once(lock) is LockState.MINE:
            shutil.rmtree(place)

"""How loops are compiled: once a machine, kept on disk, in as many threads as torch has."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numba

# A process of one thread loads plain loops, in a fraction of the time; the order of all sums is the same.
THREADED = numba.config.NUMBA_NUM_THREADS > 1
LIBRARY = Path(__file__).parents[1]
# Rooms with compiled loops: a change in any of their files compiles all loops again.
ROOMS = ("kernels", "hypergeometric")


def state() -> str:
    """Return the name of the folder for loops of this state of their sources, and of so many threads.

    Numba itself looks at the file of a loop alone, not at loops of other files that were compiled into it.
    """
    total = hashlib.sha256(numba.__version__.encode())
    for room in ROOMS:
        for file in sorted((LIBRARY / room).glob("*.py")):
            total.update(file.read_bytes())
    kind = "threads" if THREADED else "one-thread"
    return f"{kind}-{total.hexdigest()[:16]}"


def can_keep(folder: Path) -> bool:
    """Tell whether this user can write files into a folder, which is made if need be, and others cannot.

    Compiled loops are code: they are read from no folder in which others write.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            found = folder.stat()
            owners = {found.st_uid, folder.lstat().st_uid}
    except OSError:
        return False
    return owners == {os.getuid()} and not found.st_mode & stat.S_IWOTH


def folders() -> Iterator[Path]:
    """Yield where loops may be kept: as the user says, beside the sources, in other own folders."""
    if numba.config.CACHE_DIR:
        # A folder that the user names in NUMBA_CACHE_DIR has the loops of other programs, too.
        yield Path(numba.config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__" / state()
    with suppress(RuntimeError):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        yield Path(home) / "vlmdiff" / state()
    yield Path(tempfile.gettempdir()) / f"vlmdiff-{os.getuid()}-{state()}"


def cache_folder() -> Path | None:
    """Return the first folder in which loops can be kept; None without one: then each process compiles."""
    with suppress(OSError):
        return next(filter(can_keep, folders()), None)
    return None


CACHE = cache_folder()
numba.config.CACHE_DIR = str(CACHE or "")
# No freedom in arithmetic (`fastmath`): a compiler uses it differently from one build to the next, and then
# a run that resumes in a new process differs in the last bit. Sums that need vector instructions are written
# in lanes.
OPTIONS = MappingProxyType({"cache": CACHE is not None, "error_model": "numpy", "nogil": True})


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays for one thread, for use inside of parallel loops too."""
    return numba.njit(**OPTIONS)(function)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays; its `prange` loops run in as many threads as torch has."""
    loop = numba.njit(**OPTIONS, parallel=THREADED)(function)
    if not THREADED:
        return loop

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        with torch_threads():
            return loop(*arguments)

    return run


@contextmanager
def torch_threads() -> Iterator[None]:
    """Run compiled loops in as many threads as torch has, and leave torch as many.

    Numba's threads are OpenMP's, and starting them, at the first call, sets the number for torch too, in that
    thread of the process alone. What torch computes from then on would have other last bits than elsewhere.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    wanted = torch.get_num_threads()
    before = numba.get_num_threads()
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    numba.set_num_threads(min(wanted, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)

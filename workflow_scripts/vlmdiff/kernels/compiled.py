"""How loops are compiled: once a machine, kept on disk, in as many threads as torch has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numba

# No freedom in arithmetic (`fastmath`): a compiler uses it differently from one build to the next, and then
# a run that resumes in a new process differs in the last bit. Sums that need vector instructions are written
# in lanes.
OPTIONS = MappingProxyType({"cache": True, "error_model": "numpy", "nogil": True})
# A process of one thread loads plain loops, in a fraction of the time; the order of all sums is the same.
THREADED = numba.config.NUMBA_NUM_THREADS > 1


def cache_folder() -> Path:
    """Return where compiled loops are kept: a folder for each state of their sources, and one for one thread.

    Numba itself looks at the file of a loop alone, not at loops of other files that were compiled into it.
    """
    here, total = Path(__file__).parent, hashlib.sha256(numba.__version__.encode())
    for file in sorted(here.glob("*.py")):
        total.update(file.read_bytes())
    beside, kind = here / "__pycache__", "threads" if THREADED else "one-thread"
    writable = os.access(beside if beside.exists() else here, os.W_OK)
    return (beside if writable else Path.home() / ".cache" / "vlmdiff") / f"{kind}-{total.hexdigest()[:16]}"


# A folder that the user names in NUMBA_CACHE_DIR stays.
numba.config.CACHE_DIR = numba.config.CACHE_DIR or str(cache_folder())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays for one thread, for use inside of parallel loops too."""
    return numba.njit(**OPTIONS)(function)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays whose `prange` loops run in several threads, if there are several."""
    return numba.njit(**OPTIONS, parallel=THREADED)(function)


@contextmanager
def torch_threads() -> Iterator[None]:
    """Run compiled loops in as many threads as torch has."""
    if not THREADED:
        yield
        return
    import torch

    before = numba.get_num_threads()
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)

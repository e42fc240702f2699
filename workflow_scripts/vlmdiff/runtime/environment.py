"""What a user's environment may not decide: encodings, backends, styles, precision, deadly warnings."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

# They change what is computed or how, behind the configuration's back.
UNWANTED = (
    "NUMBA_DISABLE_JIT", "NUMBA_FASTMATH", "NUMBA_OPT", "NUMBA_BOUNDSCHECK", "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_JIT",
    "TORCHDYNAMO_DISABLE", "MPLSTYLE", "PYTHONWARNINGS",
)  # fmt: skip

# As Python itself has them where nobody asks for others.
QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


class InterpreterError(ValueError):
    """Snakemake cannot start jobs with this Python."""


def prepare_jobs() -> None:
    """Set the environment of all jobs, in the process that starts them.

    Raises:
        InterpreterError: its path has blanks or the like; Snakemake writes it into commands as it is.
    """
    if any(mark in sys.executable for mark in " '\"$&;()<>|*?\t"):
        raise InterpreterError(
            f"The Python of this environment is {sys.executable!r}, and Snakemake cannot start scripts with "
            "blanks or quotes in that path. Make the environment in another folder (`python3 -m venv "
            "~/vlmdiff-env`, then its `pip install -r envs/requirements.txt`) and run its `snakemake` here; "
            "the folder of the workflow itself may be called anything"
        )
    # Texts are UTF-8, whatever the user's locale.
    os.environ.update(PYTHONUTF8="1")
    # Idle OpenMP threads must sleep, not spin: two spinning jobs on two cores run at a third of their speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Jobs keep freed memory for their next tensors instead of handing every one of them back to the system.
    for setting in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.setdefault(setting, str(2**30))


def limit_threads(threads: int) -> None:
    """Give numerical libraries `threads` threads that sleep instead of spinning while idle.

    Must run before torch or numpy is imported; two spinning processes on two cores run at a
    third of their speed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for variable in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
    ):
        os.environ[variable] = str(threads)


def neutralise() -> None:
    """Set the environment of this process and its children; call it before libraries are imported.

    A notebook's MPLBACKEND stops whatever imports matplotlib, as Lightning does; a matplotlibrc changes
    figures or cannot be read; PYTHONWARNINGS=error makes an exception of a library's remark.
    """
    for name in UNWANTED:
        os.environ.pop(name, None)
    os.environ["MPLBACKEND"] = "agg"
    if (style := default_style()) is not None:
        os.environ["MATPLOTLIBRC"] = style
    if sys.warnoptions:
        warnings.resetwarnings()
        for kind in QUIET:
            warnings.simplefilter("ignore", kind)


def default_style() -> str | None:
    """Return the matplotlibrc that comes with matplotlib, which is not imported for it; None without one."""
    found = find_spec("matplotlib")
    folders = found.submodule_search_locations if found is not None else None
    file = Path(folders[0], "mpl-data", "matplotlibrc") if folders else None
    return str(file) if file is not None and file.is_file() else None

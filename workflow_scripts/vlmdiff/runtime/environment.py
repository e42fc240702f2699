"""What a user's environment may not decide: backends, styles, precision, warnings that stop a job."""

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

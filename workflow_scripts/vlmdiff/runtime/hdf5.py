"""Opening HDF5 files on every file system: without locks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# HDF5 looks at it once, when it is loaded, and it would have the last word.
os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"

if TYPE_CHECKING:
    import h5py


def open_hdf5(path: str | Path, mode: str = "r", **options: Any) -> h5py.File:
    """Open an HDF5 file without locking it.

    Nobody writes into a file that others read: it is written in a workplace and then renamed. Many network
    file systems have no locks; there HDF5 would refuse to open a file, even to read it.

    Args:
        path: the file.
        mode: `r` or `w`.
        options: as for `h5py.File`.
    """
    import h5py

    return h5py.File(path, mode, locking=False, **options)

"""Gemma Scope (arXiv 2408.05147): `layer_{l}/width_{w}/average_l0_{n}/params.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    NAMES,
    Found,
    check_kind_by_names,
    chosen_scale,
    needed,
    remedy,
    widened,
)
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.runtime.disk_errors import not_read

WEIGHTS = "params.npz"


def read(source: PublishedSource) -> Found:
    """Read one layer's file, or the folder that holds it: JumpReLU on the raw residual stream.

    Raises:
        DictionaryError: the file is missing or damaged, or lacks an array.
    """
    path = Path(source.path)
    path = path if path.suffix == ".npz" else path / WEIGHTS
    arrays = read_arrays(path)
    needed(arrays, (*NAMES, "threshold"), path)
    check_kind_by_names(arrays, ("threshold",), path)
    weights = widened({name: arrays[name] for name in (*NAMES, "threshold")}, path)
    # Activations pass a ReLU too, so that a negative threshold acts as zero does.
    weights["threshold"].clamp_(min=0)
    return Found(weights, None, False, chosen_scale(None, source.input_scale, path))


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read all arrays of a file, without unpickling anything; `w_` in old files means `W_`.

    Raises:
        DictionaryError: it is missing, damaged or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                f"W_{name[2:]}" if name.startswith("w_") else name: torch.from_numpy(file[name])
                for name in file.files
            }
    except FileNotFoundError:
        raise DictionaryError(f"{path}: not found. {remedy()}") from None
    except Exception as error:  # a damaged file fails in many ways
        damaged = DictionaryError(f"{path}: cannot be read ({error}). {remedy()}")
        raise not_read(path, error) or damaged from error

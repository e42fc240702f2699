"""Between the model's floating-point numbers and the 16 bits that a shard stores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlmdiff.activations.format import Storage

TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def to_storage(values: Tensor, storage: Storage) -> np.ndarray:
    """Round to 16 bits: float16, or bfloat16 as its bits in uint16. Out of range becomes infinity."""
    rounded = values.detach().to(TORCH[storage]).cpu()
    return rounded.numpy() if storage == "float16" else rounded.view(torch.int16).numpy().view(np.uint16)


def as_stored(stored: np.ndarray) -> Tensor:
    """Return stored values as a tensor that shares their memory; uint16 holds bits of bfloat16."""
    if stored.dtype == np.uint16:
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored)


def from_storage(stored: np.ndarray) -> Tensor:
    """Return stored values as float32."""
    return as_stored(stored).float()

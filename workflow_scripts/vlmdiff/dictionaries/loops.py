"""Which loops sum over active pairs: compiled ones on a CPU, Triton's on a GPU, else torch's operations.

At the start of a job on a GPU its loops are held against torch's operations on a small batch. They are used
only if they are there and agree.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

log = logging.getLogger(__name__)
# Where Triton's loops run; a test lets Triton's interpreter run them on a CPU.
DEVICE = "cuda"
# Largest difference that rounding makes, of the largest value.
ROUNDING = 1e-4


def compiled_loops_fit(*tensors: Tensor) -> bool:
    """Tell whether the compiled loops do for these tensors."""
    return all(one.device.type == "cpu" and one.dtype == torch.float32 for one in tensors)


class DeviceLoops:
    """Triton's loops, if they may be used in this process."""

    def __init__(self) -> None:
        self.module: ModuleType | None = None

    def fitting(self, *tensors: Tensor) -> ModuleType | None:
        """Return the loops if they do for these tensors; None if torch has to."""
        if self.module is None:
            return None
        fit = all(one.device.type == DEVICE and one.dtype == torch.float32 for one in tensors)
        return self.module if fit else None

    def open(self, device: torch.device) -> None:
        """Use the loops from now on if this device runs them and they agree with torch's operations."""
        self.module = None
        if device.type != DEVICE:
            return
        if find_spec("triton") is None:
            log.warning("triton is not installed: dictionaries train by torch's own operations, slower")
            return
        try:
            from vlmdiff.kernels import device as loops

            error = disagreement(loops, device)
        except Exception as problem:  # compilers fail in many ways, and there is another way to go on
            log.warning("Triton's loops do not run here (%s): torch's own operations are used", problem)
            return
        if error > ROUNDING:
            log.warning("Triton's loops are off by %g of the values: torch's own operations are used", error)
            return
        self.module = loops
        log.info("Triton's loops agree with torch's operations to %.1g", error)


DEVICE_LOOPS = DeviceLoops()


def disagreement(loops: ModuleType, device: torch.device) -> float:
    """Return by how much loops differ from torch's operations on a small batch, as a fraction of the values.

    A pair that only one of them chooses counts as infinitely far off, unless values tie.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    n, d_model, d_sae, k = 16, 40, 1100, 7
    pre, bias, rows, x = normal(n, d_sae), normal(d_sae), normal(d_sae, d_model), normal(n, d_model)
    values, columns = loops.largest_of_rows(pre, bias, k)
    expected = torch.topk(pre + bias, k, dim=1)
    if not torch.equal(columns, expected.indices.sort(dim=1).values):
        return float("inf")
    begins = torch.arange(0, (n + 1) * k, k, device=device)
    flat, positive = columns.flatten(), values.flatten().relu()
    chosen = rows[flat].view(n, k, d_model)
    found = [
        (values.sort(dim=1, descending=True).values, expected.values),
        (
            loops.decode_pairs(begins, flat, positive, rows, x[0]),
            (positive.view(n, k, 1) * chosen).sum(dim=1) + x[0],
        ),
        (
            loops.pair_products(x, begins, flat, positive, rows),
            ((x[:, None] * chosen).sum(dim=2) * (values > 0)).flatten(),
        ),
    ]
    return max(float((one - two).abs().max() / two.abs().max()) for one, two in found)

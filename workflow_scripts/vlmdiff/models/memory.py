"""How much memory a stage may fill beside the model."""

from __future__ import annotations

import torch


def spare_bytes(device: torch.device, on_cpu: int, share: float = 0.5) -> int:
    """Return the memory that may be filled with values that only save time.

    Args:
        device: where the values will lie.
        on_cpu: the answer for a CPU, whose memory others use too.
        share: of an accelerator's free memory; the rest is for forward passes.

    Returns:
        bytes.
    """
    if device.type != "cuda":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds in reserve is free for torch, though not for the driver.
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(share * (free + reserve))

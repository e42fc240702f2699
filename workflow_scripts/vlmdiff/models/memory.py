"""How much memory a stage may fill beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vlmdiff.models.subject import Subject

GRAPH_ON_CPU = 16 * 2**30  # bytes


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


def graph_bytes(subject: Subject, longest: int) -> int:
    """Return what the graph through all blocks holds of one token, at most.

    Measured on Llama, Qwen 3 and Gemma 2 in 16 bits (docs/run/scale.md): each block keeps 17 values' bytes
    of the residual width, 6 of the MLP's, 13 of the heads', and 8 of each attention weight if the
    attention is written out ("eager").

    Args:
        subject: the model.
        longest: tokens of the longest sample.
    """
    config = subject.model.config.get_text_config()
    inner = getattr(config, "intermediate_size", 4 * subject.d_model)
    weights = 8 * subject.n_heads * longest if config._attn_implementation == "eager" else 0
    block = 17 * subject.d_model + 6 * inner + 13 * subject.n_heads * subject.d_head + weights
    return subject.n_layers * block * subject.model.dtype.itemsize // 2


def gradient_tokens(subject: Subject, longest: int, batch_tokens: int) -> int:
    """Return how many tokens a batch may have whose graph is kept, at most `batch_tokens`."""
    spare = spare_bytes(subject.device, on_cpu=GRAPH_ON_CPU)
    return max(1, min(batch_tokens, spare // graph_bytes(subject, longest)))

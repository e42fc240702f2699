"""Logits of models whose weights have 16 bits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 2**14  # of the vocabulary at once: 256 MB at d_model 4096


def precise_logits(head: nn.Module, states: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocabulary"]:
    """Apply an output head in at least float32, some rows of the vocabulary at a time.

    In bfloat16 logits near 20 come in steps of 1/8: answers would tie, and margins would be counted
    in eighths.

    Args:
        head: linear layer, perhaps in 16 bits.
        states: residual stream after the final norm.
    """
    weight, bias = head.weight, head.bias
    # A weight that accelerate keeps elsewhere is only there while the layer runs.
    if weight.dtype.itemsize > 2 or weight.device.type == "meta":
        return head(states)
    states = states.to(weight.device).float()
    parts = []
    for start in range(0, weight.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        parts.append(linear(states, weight[rows].float(), None if bias is None else bias[rows].float()))
    return torch.cat(parts, dim=-1)

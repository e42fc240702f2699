"""JumpReLU and its step with straight-through gradients (arXiv 2407.14435, section 3).

With the rectangle `K(u) = 1 if |u| < 1/2 else 0` and bandwidth `eps`:
`d JumpReLU / d threshold = -(threshold / eps) K((pre - threshold) / eps)` and
`d step / d threshold = -(1 / eps) K((pre - threshold) / eps)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Return where a pre-activation lies within half a bandwidth of its threshold."""
    return (pre - threshold).abs() < bandwidth / 2


class JumpReLU(torch.autograd.Function):
    """`pre` where it exceeds `threshold`, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Apply the activation."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Pass gradients to active features, and to thresholds through the rectangle."""
        pre, threshold = ctx.saved_tensors
        near = (gradient * window(pre, threshold, ctx.bandwidth)).sum(dim=0)
        return gradient * (pre > threshold), -threshold / ctx.bandwidth * near, None


class Step(torch.autograd.Function):
    """1 where `pre` exceeds `threshold`, 0 elsewhere; summed over features it is the L0."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Apply the step."""
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        """Pass gradients to thresholds alone."""
        pre, threshold = ctx.saved_tensors
        near = (gradient * window(pre, threshold, ctx.bandwidth)).sum(dim=0)
        return None, -near / ctx.bandwidth, None

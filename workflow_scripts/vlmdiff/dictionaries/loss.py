"""The training loss: the fraction of variance unexplained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.loops import compiled_loops_fit
from vlmdiff.dictionaries.pairs import arrays
from vlmdiff.kernels.squares import squared_deviations, subtract


class FractionUnexplained(torch.autograd.Function):
    """The loss with its gradient by `x_hat`, `2 (x_hat - x) / sum ||x - mean(x)||^2`, in two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_hat: Tensor) -> Tensor:
        """Return the loss."""
        by_x_hat = torch.empty_like(x_hat, memory_format=torch.contiguous_format)
        variance = squared_deviations(*arrays(x))
        factor = np.float32(2 / variance if variance else np.nan)
        error = subtract(*arrays(x, x_hat), factor, *arrays(by_x_hat))
        ctx.save_for_backward(by_x_hat)
        return x_hat.new_tensor(error / variance if variance else float("nan"))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Return the gradient by `x_hat`."""
        (by_x_hat,) = ctx.saved_tensors
        return None, by_x_hat if gradient == 1 else by_x_hat * gradient


def fraction_unexplained(
    x: Float[Tensor, "n d_model"], x_hat: Float[Tensor, "n d_model"]
) -> Float[Tensor, ""]:
    """Return `sum ||x - x_hat||^2 / sum ||x - mean(x)||^2` over the tokens of a batch (arXiv 2602.08713)."""
    if compiled_loops_fit(x, x_hat):
        return FractionUnexplained.apply(x, x_hat)
    return (x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()

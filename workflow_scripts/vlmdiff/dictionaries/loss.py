"""The training loss: the fraction of variance unexplained."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.pairs import arrays, compiles
from vlmdiff.kernels.compiled import torch_threads
from vlmdiff.kernels.errors import squared_deviations, subtract


class FractionUnexplained(torch.autograd.Function):
    """The loss with its gradient by `x_hat`, `2 (x_hat - x) / sum ||x - mean(x)||^2`, in two passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_hat: Tensor) -> Tensor:
        """Return the loss."""
        difference = torch.empty_like(x_hat)
        with torch_threads():
            error = subtract(*arrays(x, x_hat, difference))
            ctx.variance = squared_deviations(*arrays(x))
        ctx.save_for_backward(difference)
        return x_hat.new_tensor(error / ctx.variance if ctx.variance else float("nan"))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Return the gradient by `x_hat`."""
        (difference,) = ctx.saved_tensors
        return None, difference * (2 * gradient / ctx.variance)


def fraction_unexplained(
    x: Float[Tensor, "n d_model"], x_hat: Float[Tensor, "n d_model"]
) -> Float[Tensor, ""]:
    """Return `sum ||x - x_hat||^2 / sum ||x - mean(x)||^2` over the tokens of a batch (arXiv 2602.08713)."""
    if compiles(x, x_hat):
        return FractionUnexplained.apply(x, x_hat)
    return (x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()

"""What processes that train one dictionary together tell one another.

Each has its share of a step's tokens, and torch averages their gradients. The loss of a process is scaled
so that the average is the gradient of the loss of all tokens: N processes take the steps of a single one, up
to rounding. Everything here leaves its arguments as they are where one process trains alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import Reconstruction


def process_count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """Return the sum of all processes' values; nothing is differentiable."""
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def largest(value: int, device: torch.device) -> int:
    """Return the largest of all processes' numbers."""
    if process_count() == 1:
        return value
    found = torch.tensor(value, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def shown_as(own: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `own`."""
    return own + (value - own).detach()


def fraction_of_all(x: Float[Tensor, "n d_model"], x_hat: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
    """Return the fraction of variance unexplained of all processes' tokens, of which `x` is one share."""
    count = process_count()
    if count == 1:
        return fraction_unexplained(x, x_hat)
    mean = (summed(x.sum(dim=0, dtype=torch.float64)) / (count * len(x))).to(x.dtype)
    variance = summed((x - mean).square().sum())
    own = (x - x_hat).square().sum() * (count / variance)
    return shown_as(own, summed(own) / count)


def noise_of_fraction(x: Float[Tensor, "n d_model"], x_hat: Float[Tensor, "n d_model"]) -> float:
    """Return the standard error, over all processes' tokens, of `fraction_of_all` held against 1.

    A token's excess is its squared error less its squared distance from the mean; an FVU of 1 is an excess
    of 0 on average. The unit is that of the FVU.
    """
    x, x_hat = x.double(), x_hat.double()
    alone = process_count() == 1
    mean = x.mean(dim=0) if alone else summed(x.sum(dim=0)) / (process_count() * len(x))
    spread = (x - mean).square().sum(dim=1)
    excess = (x - x_hat).square().sum(dim=1) - spread
    sums = torch.stack([torch.ones_like(excess), spread, excess, excess.square()]).sum(dim=1)
    count, variance, first, second = (sums if alone else summed(sums)).tolist()
    return math.sqrt(max(second - first * first / count, 0.0)) / variance


def squared_error_of_all(
    x: Float[Tensor, "n d_model"], x_hat: Float[Tensor, "n d_model"]
) -> Float[Tensor, ""]:
    """Return the mean over all processes' tokens of `||x - x_hat||^2`, summed over dimensions."""
    own = (x - x_hat).square().sum(dim=1).mean()
    count = process_count()
    return own if count == 1 else shown_as(own, summed(own) / count)


def counted_over_all(found: Reconstruction) -> Reconstruction:
    """Return a reconstruction with the L0 and the firings of all processes' tokens."""
    count = process_count()
    if count == 1:
        return found
    l0 = shown_as(found.l0, summed(found.l0) / count)
    return replace(found, l0=l0, firings=summed(found.firings))

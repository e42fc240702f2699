"""What heads compute (the input of `o_proj`, head by head) and what is measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.models.hooks import edit_input, stop_after
from vlmdiff.models.subject import Subject


def feature_metric(
    residual: Float[Tensor, "samples tokens d_model"],
    direction: Float[Tensor, " d_model"],
    where: Bool[Tensor, "samples tokens"],
) -> Float[Tensor, " samples"]:
    """Sum `residual . direction` over marked tokens, by sample (docs/understand/method.md section 8)."""
    direction, where = direction.to(residual.device), where.to(residual.device)
    return ((residual.float() @ direction) * where).sum(dim=1)


@contextmanager
def recorded_heads(
    subject: Subject, layers: Sequence[int], differentiable: bool = False
) -> Iterator[dict[int, Float[Tensor, "samples tokens heads_d_head"]]]:
    """Yield a dict that receives the input of `o_proj` of each layer.

    Args:
        subject: the model.
        layers: blocks to record.
        differentiable: make what is recorded part of a graph. Weights are frozen, so the graph
            begins at the first recorded block, and nothing before it costs memory.
    """
    recorded: dict[int, Tensor] = {}

    def keep(layer: int, values: Tensor) -> Tensor:
        if differentiable and not values.requires_grad:
            values = values.detach().requires_grad_(True)
        recorded[layer] = values
        return values

    with ExitStack() as stack:
        for layer in layers:
            edit = lambda values, layer=layer: keep(layer, values)  # noqa: E731
            stack.enter_context(edit_input(subject.attention_output(layer), edit))
        yield recorded


def by_head(values: Float[Tensor, "samples tokens heads_d_head"], n_heads: int) -> Tensor:
    """Split the last axis into (heads, d_head)."""
    return values.unflatten(-1, (n_heads, -1))


def head_slice(subject: Subject, head: int) -> slice:
    """Return a head's place in the input of `o_proj`."""
    return slice(head * subject.d_head, (head + 1) * subject.d_head)


@torch.no_grad()
def head_values(
    subject: Subject, batch: object, layers: Sequence[int], embeds: Tensor
) -> dict[int, Float[Tensor, "samples tokens heads_d_head"]]:
    """Return the input of `o_proj` of each of `layers` in a plain run, which ends with the last of these."""
    with recorded_heads(subject, layers) as recorded, stop_after(subject.attention(max(layers))):
        subject.run_decoder(batch, embeds)
    return recorded

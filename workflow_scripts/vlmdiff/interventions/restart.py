"""Run a model from one of its blocks on, when everything before that block is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlmdiff.models.hooks import edit_input
from vlmdiff.models.subject import Subject


def pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stand in for a block that is skipped: the residual stream leaves as it entered."""
    return hidden_states


def pass_through_in_tuple(hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Stand in for a block that returns its attention weights too."""
    return hidden_states, None


@contextmanager
def skipped(module: nn.Module, tuples: bool = False) -> Iterator[None]:
    """Make a decoder block pass its input on, at no cost, while the context is open.

    Args:
        module: the block.
        tuples: whether it returns its output as the first of several.
    """
    own = vars(module).get("forward")
    module.forward = pass_through_in_tuple if tuples else pass_through
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def restart(
    subject: Subject, layer: int, entering: Float[Tensor, "batch tokens d_model"]
) -> Iterator[Float[Tensor, "batch tokens d_model"]]:
    """Let forward passes begin at block `layer` with `entering` as its input.

    An intervention in block `layer` leaves all earlier blocks as they were, so running them again
    would only cost time. The result is the full forward pass, bit for bit.

    Args:
        subject: the model.
        layer: first block that runs.
        entering: residual stream that enters the block.

    Yields:
        The embeddings to call `residuals` or `final_logits` with.
    """
    with ExitStack() as stack:
        for earlier in range(layer):
            stack.enter_context(skipped(subject.block(earlier), subject.layout.tuples))
        stack.enter_context(edit_input(subject.block(layer), lambda _: entering))
        yield entering

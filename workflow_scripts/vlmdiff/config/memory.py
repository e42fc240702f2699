"""How many dictionaries fit into memory while they are trained: what the plan tells, and what a job does."""

from __future__ import annotations

from collections.abc import Sequence

Layers = tuple[int, ...]
FLOAT_BYTES = 4
# Of the memory that is free; a batch's activations need some too.
SHARE = 0.9


def training_bytes(d_model: int, d_sae: int) -> int:
    """Return the bytes of a dictionary that waits for its turn: weights and two moments, in float32."""
    return 3 * 2 * d_model * d_sae * FLOAT_BYTES


def at_once(memory_bytes: float, d_model: int, d_sae: int) -> int:
    """Return how many dictionaries fit into free memory, at least one; one at a time has gradients."""
    one = training_bytes(d_model, d_sae)
    return max(1, int((SHARE * memory_bytes - one / 3) / one))


def cut(layers: Sequence[int], most: int) -> list[Layers]:
    """Cut layers into as few runs of at most `most` as it takes, of about equal length."""
    runs = -(-len(layers) // most)
    size = -(-len(layers) // runs)
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]

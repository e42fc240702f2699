"""What changes from step to step of a training: the learning rate and the weight of the sparsity penalty."""

from __future__ import annotations

import math

from vlmdiff.config.defaults import rising_steps


def learning_rate_factor(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Return the fraction of the peak learning rate: linear warm-up, then a cosine to zero, or the peak.

    Args:
        step: counted from 0.
        steps: of the whole training.
        warmup: as for `rising_steps`.
        schedule: `cosine` or `constant`.
    """
    rising = rising_steps(warmup, steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def sparsity_factor(step: int, steps: int, warmup: float) -> float:
    """Return the fraction of the sparsity penalty's weight: linear from 0 on, then 1."""
    rising = rising_steps(warmup, steps)
    return min(1.0, step / rising) if rising else 1.0

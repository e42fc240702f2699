"""Independent random streams derived from the one seed of the configuration."""

import random

import torch

from vlmdiff.runtime import derive_seed


def random_stream(seed: int, *purpose: str | int) -> random.Random:
    """Return a random stream of its own for each purpose, the same on every machine.

    Args:
        seed: the configuration's seed.
        purpose: words and numbers that name what the stream is for.
    """
    return random.Random(derive_seed(seed, *purpose))


def seed_torch(seed: int, *purpose: str | int) -> None:
    """Seed torch's global generator (weight initialisation) for one purpose."""
    torch.manual_seed(derive_seed(seed, *purpose))

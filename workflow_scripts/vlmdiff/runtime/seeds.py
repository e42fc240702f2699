"""One seed in the config, one stream of randomness per job."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """Derive a job's seed from the run's seed and the job's names, stable across machines.

    Returns:
        An integer in [0, 2**31).
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

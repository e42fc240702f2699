"""Methods of diffing: what each asks of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdiff.config.comparisons import ROTATION
from vlmdiff.config.crosscoders import check_crosscoders
from vlmdiff.config.drifts import check_drifts
from vlmdiff.config.latent_scaling import check_latent_scaling

if TYPE_CHECKING:
    from vlmdiff.config.schema import Config


def check_methods(config: Config) -> None:
    """Check that every comparison has what its method reads.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    if (method := config.diff.method) != ROTATION:
        raise ValueError(
            f"diff.method: found '{method}', expected 'rotation': all later stages read the dictionary of "
            "the main comparison, and other methods stand next to it; write "
            f"`comparisons: {{ {method}: {{ target: scoreboard, method: {method}, … }} }}`"
        )
    check_drifts(config)
    check_crosscoders(config)
    check_latent_scaling(config)

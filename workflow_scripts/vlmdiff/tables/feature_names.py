"""Names of features: `L{layer}F{index}`, both counted from 0."""

from __future__ import annotations

import re

NAME = re.compile(r"L(\d+)F(\d+)")


def feature_name(feature: tuple[int, int]) -> str:
    """Write layer and index of a feature as its name."""
    return f"L{feature[0]}F{feature[1]}"


def feature_place(name: str) -> tuple[int, int]:
    """Read layer and index of a feature from its name.

    Raises:
        ValueError: it is none.
    """
    if (found := NAME.fullmatch(name)) is None:
        raise ValueError(f"found '{name}', expected the name of a feature, such as L2F100")
    return int(found[1]), int(found[2])

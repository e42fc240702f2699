"""What the settings of a training leave open, and which of them it reads; without torch, for rules too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of arXiv 2406.04093, A.2: weight of the auxiliary loss, and tokens after which a silent feature is dead.
AUXK_COEFFICIENT = 1 / 32
LONGEST_SILENCE = 10_000_000
# Settings that one kind alone reads.
READ_BY = {"bandwidth": "jumprelu", "l0_coefficient": "jumprelu", "sparsity_warmup": "jumprelu"}
READ_BY |= {"auxk_coefficient": "topk", "dead_after_tokens": "topk"}


def decided(values: Mapping[str, Any], warm: bool) -> dict[str, Any]:
    """Return settings with a value for what they leave open.

    Args:
        values: by the names of the configuration, with `kind`, `steps` and `batch_tokens`.
        warm: it starts from an earlier dictionary, whose dead features are not pulled elsewhere.
    """
    values = dict(values)
    if values.get("dead_after_tokens") is None:
        tenth = -(-values["steps"] * values["batch_tokens"] // 10)
        values["dead_after_tokens"] = min(LONGEST_SILENCE, max(values["batch_tokens"], tenth))
    if values.get("auxk_coefficient") is None:
        values["auxk_coefficient"] = 0.0 if warm or values["kind"] != "topk" else AUXK_COEFFICIENT
    return values


def unread(values: Mapping[str, Any]) -> set[str]:
    """Return the names of settings, decided ones, that change no weight of a training."""
    others = {name for name, kind in READ_BY.items() if values["kind"] != kind}
    return others | (set() if values["auxk_coefficient"] else {"dead_after_tokens"})

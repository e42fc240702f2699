"""What settings are where the configuration leaves them open: one place for rules, jobs and checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import Any

# A token is massive whose norm exceeds as many medians of its sample.
MASSIVE_RATIO = 10.0
# What a chat template takes for today; Llama's own fall back to it.
PROMPT_DATE = date(2024, 7, 26)
# For tokenizers and processors. Without the second, transformers would ask at the terminal whether to run
# a repository's code.
FROM_FOLDER = MappingProxyType({"local_files_only": True, "trust_remote_code": False})
# Of arXiv 2406.04093, A.2: weight of the auxiliary loss, and tokens after which a silent feature is dead.
AUXK_COEFFICIENT = 1 / 32
LONGEST_SILENCE = 10_000_000
# Settings that some kinds alone read.
READ_BY = dict.fromkeys(("bandwidth", "l0_coefficient", "sparsity_warmup"), ("jumprelu",))
READ_BY |= dict.fromkeys(("auxk_coefficient", "dead_after_tokens"), ("topk", "batch_topk", "matryoshka"))
READ_BY["prefixes"] = ("matryoshka",)
# Of the Gemma 2 dictionaries of arXiv 2503.17547: 2,048, 6,144, 14,336 and 30,720 of 65,536 features.
PREFIXES = (1 / 32, 3 / 32, 7 / 32, 15 / 32)


def rising_steps(warmup: float, steps: int) -> int:
    """Return how many steps a warm-up takes.

    Args:
        warmup: below 1 a fraction of all steps, which is rounded up; from 1 on a number of steps.
        steps: of the whole training.
    """
    # Rounded before, because 0.07 * 100 is 7.000000000000001.
    return math.ceil(round(warmup * steps, 6)) if warmup < 1 else round(warmup)


def prefix_sizes(prefixes: Sequence[float] | None, d_sae: int) -> list[int]:
    """Return how many features each prefix of a Matryoshka dictionary has; the last one has all.

    Args:
        prefixes: the shorter ones, below 1 a fraction of all features, else a number; None: the paper's.
        d_sae: number of features.
    """
    shorter = PREFIXES if prefixes is None else prefixes
    return [*(max(1, round(one * d_sae)) if one < 1 else int(one) for one in shorter), d_sae]


def decided(values: Mapping[str, Any], warm: bool) -> dict[str, Any]:
    """Return settings of a training with a value for what they leave open.

    Args:
        values: by the names of the configuration, with `kind`, `d_sae`, `steps` and `batch_tokens`.
        warm: it starts from an earlier dictionary, whose dead features are not pulled elsewhere.
    """
    values = dict(values)
    if values.get("dead_after_tokens") is None:
        tenth = -(-values["steps"] * values["batch_tokens"] // 10)
        values["dead_after_tokens"] = min(LONGEST_SILENCE, max(values["batch_tokens"], tenth))
    if values.get("auxk_coefficient") is None:
        reads = values["kind"] in READ_BY["auxk_coefficient"]
        values["auxk_coefficient"] = AUXK_COEFFICIENT if reads and not warm else 0.0
    if values["kind"] in READ_BY["prefixes"]:
        values["prefixes"] = prefix_sizes(values.get("prefixes"), values["d_sae"])
    return values


def unread(values: Mapping[str, Any]) -> set[str]:
    """Return the names of settings, decided ones, that change no weight of a training."""
    others = {name for name, kinds in READ_BY.items() if values["kind"] not in kinds}
    return others | (set() if values["auxk_coefficient"] else {"dead_after_tokens"})

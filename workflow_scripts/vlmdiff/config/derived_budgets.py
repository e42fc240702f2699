"""Shape, steps and rate of dictionaries that leave them out, by what their model and data suggest."""

from __future__ import annotations

import math
from typing import Any

from vlmdiff.config.budgets import ArchitectureConfig
from vlmdiff.config.decoder import described, width_in
from vlmdiff.config.parts import Parts
from vlmdiff.config.plain import Values, put_under, section
from vlmdiff.config.sources import is_local

# A dictionary has as many features as the residual stream has dimensions, times this.
EXPANSION = 8
# Active features a token: one for so many dimensions, within these bounds; 50 is the paper's.
DIMENSIONS_A_FEATURE, FEWEST_ACTIVE, MOST_ACTIVE = 16, 8, 50
# The authors' rate for TopK: 2e-4 for 2^14 features, falling with the root of their number.
RATE, RATE_WIDTH = 2e-4, 2**14
BATCH_TOKENS = 1024
# How often a dictionary sees its data, and the fewest steps: warm, and from random weights.
PASSES = {True: 1, False: 3}
FEWEST_STEPS = {True: 200, False: 500}
MOST_STEPS = 30_000
# Text tokens of a sample where an entry does not say how many.
TEXT_TOKENS = 20
# More than any data set has.
MOST_TOKENS = 2**40
# What a null inherits from the adapted dictionary, with which it is compared.
BUDGET = ("steps", "batch_tokens", "learning_rate", "schedule", "warmup", "gradient_clip_norm")


def derive_budgets(values: Values) -> None:
    """Give dictionaries that are trained the shape, steps and rate that their model and data suggest."""
    dictionaries = section(values, "dictionaries")
    trained = [one for one in dictionaries.values() if isinstance(one, dict) and "source" not in one]
    own = values.get("data") is not None
    if own and (width := residual_width(values, trained)):
        active = min(MOST_ACTIVE, max(FEWEST_ACTIVE, width // DIMENSIONS_A_FEATURE))
        put_under(values, "architecture", {"d_sae": EXPANSION * width, "k": active})
    adapted = section(dictionaries, section(values, "diff").get("adapted", "adapted"))
    d_sae = section(values, "architecture").get("d_sae", ArchitectureConfig().d_sae)
    for stage in sorted(trained, key=lambda one: one is not adapted):
        warm = stage.get("initial", "random") != "random"
        if own and warm and stage is not adapted and "source" not in adapted:
            # What is compared has one budget: that of the adapted dictionary.
            for key in BUDGET:
                if key in adapted:
                    stage.setdefault(key, adapted[key])
        tokens = planned_tokens(values, stage.get("dataset"))
        batch = stage.get("batch_tokens", BATCH_TOKENS)
        if "steps" not in stage and tokens and isinstance(batch, int) and 0 < batch <= MOST_TOKENS:
            steps = math.ceil(PASSES[warm] * tokens / batch)
            stage["steps"] = min(MOST_STEPS, max(FEWEST_STEPS[warm], steps))
        wide = section(stage, "architecture").get("d_sae", d_sae)
        if "learning_rate" not in stage and isinstance(wide, int) and wide > 0:
            stage["learning_rate"] = float(f"{RATE * math.sqrt(RATE_WIDTH / wide):.3g}")


def residual_width(values: Values, trained: list[Values]) -> int | None:
    """Return the width of the first trained dictionary's model; None if no file at hand tells it."""
    for stage in trained:
        model = section(values, "models", stage.get("model"))
        planned = section(model, "planned").get("d_model")
        found = planned if isinstance(planned, int) else width_told(model.get("path"))
        if found:
            return found
    return None


def width_told(path: Any) -> int | None:
    """Return the residual width that the config.json of a checkpoint in a folder tells; None if none does."""
    description = described(path) if isinstance(path, str) and is_local(path) else None
    return None if description is None else width_in(description)


def planned_tokens(values: Values, dataset: Any, seen: tuple[Any, ...] = ()) -> float | None:
    """Return about how many text tokens a data set has, or a part of one; None if its entry does not tell."""
    if isinstance(dataset, dict):
        # Some of its groups: at most all of them.
        dataset = dataset.get("dataset")
    entry = section(values, "datasets", dataset)
    if entry.get("kind") != "subset":
        told = (entry.get("samples"), entry.get("text_tokens", TEXT_TOKENS))
        known = all(isinstance(number, int) and number <= MOST_TOKENS for number in told)
        return math.prod(told) if known else None
    source, part = entry.get("of"), entry.get("part")
    whole = None if source in seen else planned_tokens(values, source, (*seen, source))
    shares = section(values, "datasets", source, "parts") or Parts().shares()
    share = shares.get(part, 1.0) if isinstance(part, str) else 1.0
    return whole * share if whole is not None and is_share(share) else None


def is_share(value: Any) -> bool:
    """Tell whether a value is a part of a whole."""
    return isinstance(value, int | float) and 0 <= value <= 1

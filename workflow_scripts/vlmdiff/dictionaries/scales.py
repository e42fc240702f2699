"""The input scale of an imported dictionary, estimated once for all trainings that start from it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlmdiff.activations.paired import open_store
from vlmdiff.dictionaries.initial import estimate_scale, sample_tokens
from vlmdiff.dictionaries.recipe import Sampling
from vlmdiff.dictionaries.turns import Turns, take_turns
from vlmdiff.extraction.stream import ActivationStream, ModelPasses
from vlmdiff.runtime.files import replacing

log = logging.getLogger(__name__)


def estimate_input_scale(
    activations: Sequence[str | Path] | ActivationStream,
    layer: int,
    seed: int,
    tokens: Sequence[str],
    facts: Mapping[str, Any],
    output: str | Path,
) -> None:
    """Estimate the scale of a layer's residuals and note it with what it was estimated on.

    Args:
        activations: shards of a model and data set, or a stream straight from the model.
        layer: decoder block.
        seed: of the order of tokens.
        tokens: token types.
        facts: plain values to keep beside it.
        output: JSON file with `input_scale`, `sample_tokens`, `tokens` and the facts.

    Raises:
        ShardError: a shard is missing, damaged or lacks the layer or token type.
        DictionaryError: the activations do not vary.
    """
    store = open_store(activations, layer) if isinstance(activations, Sequence) else activations
    sample = sample_tokens(store, Sampling(tokens), seed)
    found = {"input_scale": estimate_scale(sample), "sample_tokens": len(sample), "tokens": list(tokens)}
    with replacing(output) as temporary:
        temporary.write_text(json.dumps({**found, **facts, "layer": layer}, indent=2) + "\n")
    log.info("layer %d: input scale %g, from %d tokens", layer, found["input_scale"], len(sample))


def estimate_from_stream(passes: ModelPasses, estimates: Sequence[Mapping[str, Any]]) -> None:
    """Estimate the scales of several layers from one pass of a model.

    Args:
        passes: the model and what it is shown.
        estimates: arguments of `estimate_input_scale`, activations aside, for each layer.

    Raises:
        Exception: of the first layer that failed.
    """

    def estimate(one: Mapping[str, Any], turns: Turns) -> None:
        estimate_input_scale(ActivationStream(passes, one["layer"], get=turns.get), **one)

    failed = take_turns({one["layer"]: partial(estimate, one) for one in estimates}, threading.Event())
    for error in failed.values():
        raise error

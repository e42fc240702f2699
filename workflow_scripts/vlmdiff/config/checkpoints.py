"""Which models of a configuration are checkpoints of the built-in world, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable

from vlmdiff.config.schema import Config
from vlmdiff.config.world import SNAPSHOTS, WORLD

TUNED = SNAPSHOTS[100]


def control_models(config: Config) -> Iterable[str]:
    """Return the names of the world's control models."""
    return config.world.controls if config.world else ()


def checkpoints(config: Config, controls: bool = False) -> dict[str, str]:
    """Return the world's checkpoint behind each model of the configuration that has one.

    A model may be called like a checkpoint and be another one. The language model of a VLM, loaded alone, is
    not what was measured.

    Args:
        config: the configuration.
        controls: the control models instead of the others.
    """
    found = {
        name: model.path.removeprefix(WORLD)
        for name, model in config.models.items()
        if model.path.startswith(WORLD) and not model.text_only
    }
    return {name: one for name, one in found.items() if (one in control_models(config)) == controls}


def snapshots(config: Config) -> dict[str, int]:
    """Return per cent of fine-tuning done, by model; nothing if another model than the world's is studied."""
    percent = {checkpoint: done for done, checkpoint in SNAPSHOTS.items()}
    found, model = checkpoints(config), config.diff.model
    if found.get(model) != TUNED:
        return {}
    # Of several names of the tuned model the one under study counts.
    kept = {name: one for name, one in found.items() if one != TUNED or name == model}
    return {name: percent[one] for name, one in kept.items() if one in percent}

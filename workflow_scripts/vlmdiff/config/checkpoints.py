"""Which models of a configuration are checkpoints of the built-in world, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable

from vlmdiff.config.places import WORLD
from vlmdiff.config.schema import Config
from vlmdiff.config.subjects import ModelConfig
from vlmdiff.config.world import SNAPSHOTS, family_of_checkpoint

TUNED = SNAPSHOTS[100]
# Keys on which no answer of a checkpoint depends: where it runs, what is planned, and a day for which the
# chat template of the world does not ask.
WITHOUT_EFFECT = {"device_map", "planned", "prompt_date"}


def control_models(config: Config) -> Iterable[str]:
    """Return the names of the world's control models."""
    return config.world.controls if config.world else ()


def checkpoints(config: Config, controls: bool = False) -> dict[str, str]:
    """Return the world's checkpoint behind each model that answers as it was measured to answer.

    A model may be called like a checkpoint and be another one. A checkpoint that is loaded or asked in
    another way, say without its chat format or in 16 bits, is not what was measured.

    Args:
        config: the configuration.
        controls: the control models instead of the others.
    """
    found = {
        name: model.path.removeprefix(WORLD)
        for name, model in config.models.items()
        if model.path.startswith(WORLD) and answers_as_measured(config, model)
    }
    return {name: one for name, one in found.items() if (one in control_models(config)) == controls}


def used_controls(config: Config) -> list[str]:
    """Return the world's control models that an experiment uses."""
    used = set(checkpoints(config, controls=True).values())
    return [name for name in control_models(config) if name in used]


def answers_as_measured(config: Config, model: ModelConfig) -> bool:
    """Tell whether a checkpoint of the world is loaded and asked as `evaluate_world` does it."""
    checkpoint = model.path.removeprefix(WORLD)
    family = family_of_checkpoint(checkpoint, config.world.controls if config.world else {})
    usual = ModelConfig(family=family, path=model.path)
    return model.model_dump(exclude=WITHOUT_EFFECT) == usual.model_dump(exclude=WITHOUT_EFFECT)


def snapshots(config: Config) -> dict[str, int]:
    """Return per cent of fine-tuning done, by model; nothing if another model than the world's is studied."""
    percent = {checkpoint: done for done, checkpoint in SNAPSHOTS.items()}
    found, model = checkpoints(config), config.diff.model
    if found.get(model) != TUNED:
        return {}
    # Of several names of the tuned model the one under study counts.
    kept = {name: one for name, one in found.items() if one != TUNED or name == model}
    return {name: percent[one] for name, one in kept.items() if one in percent}

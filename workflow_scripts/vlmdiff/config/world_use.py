"""How a configuration uses the built-in world: models that it names, and the one that is taught to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdiff.config.places import HUB, PACKAGE, WORLD
from vlmdiff.config.sources import check_source
from vlmdiff.config.world import SNAPSHOTS

if TYPE_CHECKING:
    from vlmdiff.config.schema import Config

WORLD_MODELS = ("base_lm", *SNAPSHOTS.values())


def check_world(config: Config) -> None:
    """Check the models of the world that are named, and where its real language model comes from.

    Raises:
        ValueError: naming the key, what was found and what was expected.
    """
    for name, model in config.models.items():
        for key, source in (("path", model.path), ("vision_tower", model.vision_tower)):
            if source is None or not source.startswith(WORLD):
                continue
            if config.world is None:
                raise ValueError(f"models.{name}.{key}: '{source}' needs the section `world`")
            if source.removeprefix(WORLD) not in (known := [*WORLD_MODELS, *config.world.controls]):
                raise ValueError(f"models.{name}.{key}: found '{source}'; the world has {known}")
    if config.world and config.world.real_model:
        try:
            check_source(config.world.real_model.base, prefixes=(HUB, PACKAGE))
        except ValueError as error:
            raise ValueError(f"world.real_model.base: {error}") from error

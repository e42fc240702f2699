"""Which decoder blocks are studied, and how many a model has, as far as that is known before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from vlmdiff.config.base import Count
from vlmdiff.config.decoder import decoder_of, described
from vlmdiff.config.sources import is_local, world_model
from vlmdiff.config.world import LanguageModelTraining

if TYPE_CHECKING:
    from vlmdiff.config.schema import Config
    from vlmdiff.config.subjects import ModelConfig
    from vlmdiff.config.world import WorldConfig

# What a config.json calls the depth of a language model.
NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# A published config.json may leave out what is the default of its class in transformers, as LLaVA 1.5's does.
DEFAULTS = MappingProxyType(
    {
        **{"llama": 32, "mistral": 32, "mixtral": 32, "gemma": 28, "gemma2": 26, "gemma3_text": 26},
        **{"qwen2": 32, "qwen2_5_vl_text": 80, "qwen3": 32, "qwen3_vl_text": 32, "phi": 24, "phi3": 32},
    }
)


def written_as(value: Any) -> str | None:
    """Tell in which of its three forms `layers` is written; None if in none of them."""
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict):
        return "counted" if set(value) == {"evenly"} else None
    return "word" if value == "all" else None


Layers = Annotated[
    Annotated[list[int], Field(min_length=1), Tag("list")]
    | Annotated[Literal["all"], Tag("word")]
    | Annotated[dict[Literal["evenly"], Count], Tag("counted")],
    Discriminator(
        written_as,
        custom_error_type="layers",
        custom_error_message="expected a list of decoder blocks, counted from 0, or `all`, or {evenly: N}",
    ),
]


@dataclass(frozen=True)
class Depth:
    """How many decoder blocks a model has.

    Attributes:
        blocks: their number.
        where: the file or key that tells it.
    """

    blocks: int
    where: str


def blocks_of(model: ModelConfig, world: WorldConfig | None) -> int | None:
    """Return how many decoder blocks a model has, by its checkpoint or as planned; None if nobody knows yet.

    Args:
        model: its entry in the configuration.
        world: the section `world`.
    """
    if (found := depth_told(model, world)) is not None:
        return found.blocks
    return model.planned.blocks if model.planned else None


def depth_told(model: ModelConfig, world: WorldConfig | None) -> Depth | None:
    """Return the depth that a model's checkpoint or world tells; None if neither does.

    Args:
        model, world: as for `blocks_of`.
    """
    if world_model(model.path) is None:
        return depth_in(model.path) if is_local(model.path) else None
    if world is None:
        return None
    if world.real_model:
        return depth_in(world.real_model.base) if is_local(world.real_model.base) else None
    # Shipped checkpoints were made with the default settings, control models from them.
    settings = world.language_model if world.models == "train" else LanguageModelTraining()
    return Depth(settings.blocks, "world.language_model.blocks")


def depth_of(name: str, config: Config) -> Depth | None:
    """Return the depth of a model of the configuration, and what tells it; None if nobody knows yet.

    Raises:
        ValueError: `planned.blocks` contradicts the checkpoint.
    """
    model = config.models[name]
    found, blocks = depth_told(model, config.world), blocks_of(model, config.world)
    key, planned = f"models.{name}.planned.blocks", model.planned and model.planned.blocks
    if found is None:
        return None if blocks is None else Depth(blocks, key)
    if planned not in (None, found.blocks):
        raise ValueError(
            f"{key}: found {planned}, expected {found.blocks}, as {found.where} tells; correct it"
        )
    return found


def depth_in(folder: str | Path) -> Depth | None:
    """Return the depth that a checkpoint's config.json tells; None if it is not there or does not tell it."""
    part, told = decoder_of(described(folder) or {}), None
    if isinstance(kind := part.get("model_type"), str):
        told = DEFAULTS.get(kind)
    told = next((part[name] for name in NAMES if name in part), told)
    known = isinstance(told, int) and not isinstance(told, bool) and told > 0
    return Depth(told, str(Path(folder, "config.json"))) if known else None


def evenly_spaced(count: int, blocks: int) -> list[int]:
    """Return `count` evenly spaced blocks of a model, the last one included; all if it has fewer."""
    count = min(count, blocks)
    return [(i + 1) * blocks // count - 1 for i in range(count)]


def compared_models(config: Config) -> Iterator[str]:
    """Yield the models whose blocks the main comparison holds against each other, the studied one first."""
    diff = config.diff
    yield diff.model
    for start in (diff.adapted, diff.base, diff.null, diff.null_check):
        for name in (start, *config.ancestors(start)) if start is not None else ():
            if name in config.trained():
                yield config.dictionaries[name].model


def studied_layers(config: Config, models: Iterable[str]) -> list[int]:
    """Return the decoder blocks that are studied as a list.

    Args:
        config: the configuration.
        models: all models that some section names.

    Raises:
        ValueError: they are no rising numbers, a model lacks one of them, models that are compared have
            different depths, or the number of blocks is needed and not known.
    """
    depths = {name: depth_of(name, config) for name in models}
    known = {name: depth for name, depth in depths.items() if depth is not None}
    check_alike(config, known)
    layers = listed(config, known)
    if sorted(set(layers)) != layers or layers[0] < 0:
        raise ValueError(f"layers: expected rising numbers from 0 on; found {layers}")
    for name, depth in known.items():
        if layers[-1] >= depth.blocks:
            lacking = ", ".join(str(layer) for layer in layers if layer >= depth.blocks)
            raise ValueError(
                f"layers: found {lacking}, but model '{name}' has {depth.blocks} blocks ({depth.where}): "
                f"allowed are 0 to {depth.blocks - 1}, `all` and {{evenly: N}}"
            )
    return layers


def check_alike(config: Config, known: dict[str, Depth]) -> None:
    """Refuse to compare models of different depths.

    Raises:
        ValueError: naming both models, their depths and where these stand.
    """
    first, *others = [name for name in dict.fromkeys(compared_models(config)) if name in known] or [""]
    for name in others:
        if known[name].blocks != known[first].blocks:
            told = (f"'{one}' has {known[one].blocks} blocks ({known[one].where})" for one in (first, name))
            raise ValueError(
                f"models: {', but '.join(told)}; `diff` compares them block by block: expected a model and "
                "the one that it was tuned from; correct models.<name>.path"
            )


def listed(config: Config, known: dict[str, Depth]) -> list[int]:
    """Return the layers as numbers, in whichever form they are written.

    Raises:
        ValueError: nobody knows how many blocks there are.
    """
    if isinstance(config.layers, list):
        return config.layers
    model = next((name for name in compared_models(config) if name in known), None)
    if model is None:
        name = config.diff.model
        raise ValueError(
            f"layers: found {config.layers!r}, but how many blocks model '{name}' has is not known yet: "
            f"{config.models[name].path} is not on this machine, or its config.json does not tell; write a "
            f"list such as [8, 16, 24], or `planned: {{d_model: …, blocks: N}}` in models.{name}"
        )
    blocks = known[model].blocks
    return evenly_spaced(blocks if config.layers == "all" else config.layers["evenly"], blocks)

"""Which layers one job takes: all of them where a layer is seconds of work, one each where it is minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vlmdiff.config.memory import Layers, cut
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import world_model
from vlmdiff.config.storage import layer_groups, planned_size

# Multiplications with an encoder for a job of several layers: some ten minutes of a processor's core.
WORK = 1e13
# So many times as many of a job that asks for a card.
CARD = 1000
# Tokens of a data set on which features are counted, about.
COUNTED_TOKENS = 5e5
# Stands for the one layer of a job among jobs of one layer each.
ANY = ("{layer}",)


def is_streamed(config: Config, dictionary: str) -> bool:
    """Tell whether a training reads straight from the model; a crosscoder pairs what is stored of two."""
    return config.extraction.store == "stream" and config.trained()[dictionary].base_model is None


def layers_a_job(config: Config, dictionary: str, rule: str, tokens: float) -> int:
    """Return how many layers of a dictionary are work for one job that reads stored activations.

    Where nobody knows yet how wide the model is, it is one, unless it is one of the built-in world's.

    Args:
        config: the configuration.
        dictionary: which.
        rule: of the job; a card is asked for in its `resources`.
        tokens: that it multiplies with the encoder.
    """
    stage = config.trained().get(dictionary)
    model = config.diff.model if stage is None else stage.model
    if world_model(config.models[model].path) is not None:
        return len(config.layers)
    size = planned_size(config, model)
    if size is None:
        return 1
    d_sae = config.architecture.d_sae if stage is None else config.shape(dictionary).d_sae
    work = WORK * (CARD if config.resources.get(rule, {}).get("gpu") else 1)
    return max(1, int(work / (tokens * size.d_model * d_sae)))


def counted_together(config: Config, dictionary: str) -> list[Layers]:
    """Return the layers at which one job each counts features; they lie in the same shards."""
    return read_together(config, layers_a_job(config, dictionary, "feature_statistics", COUNTED_TOKENS))


def read_together(config: Config, most: int) -> list[Layers]:
    """Cut the layers of each shard into runs of at most `most`."""
    return [part for group in layer_groups(config) for part in cut(group, most)]


def passed_together(config: Config, dictionary: str) -> list[Layers]:
    """Return the layers that come from one pass of the model, whatever reads them."""
    return layer_groups(config)


def trained_together(config: Config, dictionary: str) -> list[Layers]:
    """Return the layers at which one job each trains a dictionary; of a stream, those of one pass."""
    if is_streamed(config, dictionary):
        return passed_together(config, dictionary)
    stage = config.trained()[dictionary]
    tokens = stage.steps * stage.batch_tokens
    return read_together(config, layers_a_job(config, dictionary, "train_dictionary", tokens))


def jobs_by_layers(
    config: Config, dictionaries: Iterable[str], together: Callable[[Config, str], list[Layers]]
) -> list[tuple[str, Layers | tuple[str], list[str]]]:
    """Return (suffix of the name, layers, dictionaries) of the rules whose jobs take groups of layers.

    Snakemake finds a job by a file that it makes, and so each group needs a rule of its own. Where all jobs
    of a dictionary take one layer, they share a rule, whose layers are `ANY`. The first rule has no suffix,
    and is there even where there are no dictionaries.
    """
    found: dict[Layers | tuple[str], list[str]] = {}
    for name in dictionaries:
        groups = together(config, name)
        alone = all(len(group) == 1 for group in groups)
        for layers in [ANY] if alone else groups:
            found.setdefault(layers, []).append(name)
    return [
        ("" if not number else "_alone" if layers == ANY else f"_{layers[0]}_{layers[-1]}", layers, names)
        for number, (layers, names) in enumerate((found or {ANY: []}).items())
    ]

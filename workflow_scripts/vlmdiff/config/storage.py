"""Which activations an experiment has to store, and how many bytes they will take (docs/run/storage.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from vlmdiff.config.analysis import DiffConfig
from vlmdiff.config.causal import ground_truth_datasets
from vlmdiff.config.comparisons import DRIFT, MAIN
from vlmdiff.config.crosscoders import models_read
from vlmdiff.config.decoder import described, width_in
from vlmdiff.config.drifts import base_model
from vlmdiff.config.image_tokens import image_tokens
from vlmdiff.config.latent_scaling import is_scaled
from vlmdiff.config.places import shipped
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import world_model
from vlmdiff.config.subjects import PlannedSize
from vlmdiff.config.subsets import line_of, shows_images, text_tokens

VALUE_BYTES, WEIGHT_BYTES = 2, 4
# Scenes of the built-in world are described and asked about in so many tokens; English documents are longer.
WORLD_TEXT_TOKENS = 20
ENGLISH_DOCUMENT_TOKENS = 50
# Published processors that cut pictures make at most four rows and columns of tiles, and show the whole too.
MOST_VIEWS = 17


@dataclass(frozen=True)
class PlannedSeries:
    """The activations of one model on one data set.

    Attributes:
        model, dataset: names in the config.
        samples: samples.
        tokens: tokens stored of one sample; None if nobody knows yet.
        layers: how many layers are stored.
        bytes: of the values, over all layers; None if nobody knows yet.
    """

    model: str
    dataset: str
    samples: int
    tokens: int | None
    layers: int
    bytes: int | None


def readers(config: Config, every: bool = True) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield (stage, model, data set, token types) of everything that reads activations.

    Args:
        config: the configuration.
        every: whatever target asks for it; else only what the default target reads.
    """
    default = config.default_dictionaries()
    for name, stage in config.trained().items():
        if every or name in default:
            # What is paired is read from the store, also where other trainings take streams.
            kind = "training" if stage.base_model is None else "pairing"
            for model in models_read(config, name, stage.model):
                yield kind, model, stage.dataset, tuple(stage.tokens)
    for entry in config.evaluation:
        yield "evaluation", entry.model, entry.dataset, tuple(entry.tokens)
    for name, diff in config.all_comparisons().items():
        if not every and name != MAIN and config.comparisons[name].target != "all":
            continue
        models = models_read(config, diff.adapted, diff.model)
        for model in models:
            for dataset in statistics_datasets(config, diff):
                yield "statistics", model, dataset, ("text",)
        for model in [*drifting_models(config, diff), *([diff.base_model] if is_scaled(diff) else [])]:
            yield from (("statistics", model, dataset, ("text",)) for dataset in diff.visual_datasets)
        if is_scaled(diff):
            yield from (("statistics", diff.base_model, name, ("text",)) for name in diff.text_datasets)
        for model, concept in product(models, config.concepts.values()):
            for dataset in concept.shown:
                yield "contrast", model, dataset, ("text",)
        # The scoreboard holds a crosscoder against the truth too.
        for model, dataset in product(models[:-1], ground_truth_datasets(config)):
            yield "ground truth", model, dataset, ("text",)
    for dataset in ground_truth_datasets(config):
        yield "ground truth", config.diff.model, dataset, ("text",)


def drifting_models(config: Config, diff: DiffConfig) -> list[str]:
    """Return in which models beside its own a drift looks at visual data: before tuning, and the null."""
    return [base_model(config, diff), diff.null_model] if diff.method == DRIFT else []


def statistics_datasets(config: Config, diff: DiffConfig) -> list[str]:
    """Return the data sets on which features of a comparison are counted."""
    concepts = [side.dataset for one in config.concepts.values() for side in one.sides.values()]
    return list(dict.fromkeys([*diff.visual_datasets, *diff.text_datasets, *concepts]))


def stored_tokens(config: Config, model: str, dataset: str) -> list[str]:
    """Return the token types of a model on a data set that some stage reads from the store."""
    streamed = config.extraction.store == "stream"
    found = {
        kind
        for stage, *series, kinds in readers(config)
        if series == [model, dataset] and not (streamed and stage == "training")
        for kind in kinds
    }
    return sorted(found)


def training_only(config: Config, model: str, dataset: str) -> bool:
    """Tell whether nothing but trainings read the activations of a model on a data set."""
    found = {stage for stage, *series, _ in readers(config) if series == [model, dataset]}
    return found <= {"training", "pairing"}


def layer_groups(config: Config) -> list[tuple[int, ...]]:
    """Return the layers that share a shard file."""
    size = config.extraction.layers_at_once or len(config.layers)
    return [tuple(config.layers[i : i + size]) for i in range(0, len(config.layers), size)]


def planned_series(config: Config) -> list[PlannedSeries]:
    """Return what the default target stores of each model and data set."""
    streamed = config.extraction.store == "stream"
    names = dict.fromkeys(
        (model, dataset)
        for stage, model, dataset, _ in readers(config, every=False)
        if not (streamed and stage == "training")
    )
    series = []
    for model, dataset in names:
        if kinds := stored_tokens(config, model, dataset):
            size, samples = planned_size(config, model), config.dataset(dataset).samples
            tokens = None if size is None else tokens_per_sample(config, size, dataset, kinds)
            total = (
                None if size is None else samples * tokens * size.d_model * VALUE_BYTES * len(config.layers)
            )
            series.append(PlannedSeries(model, dataset, samples, tokens, len(config.layers), total))
    return series


def planned_size(config: Config, model: str) -> PlannedSize | None:
    """Return the sizes of a model from the config, else from a local checkpoint; None if neither has them."""
    entry = config.models[model]
    if entry.planned is not None:
        return entry.planned
    section = config.world
    is_shipped = section and section.models == "shipped" and section.real_model is None
    folder = shipped("resources/world") if is_shipped else None
    world = world_model(entry.path)
    if world is not None and folder is None:
        return None
    values = described(entry.path if world is None else Path(folder, world))
    try:
        vision = (values or {}).get("vision_config", {})
        images = (vision["image_size"] // vision["patch_size"]) ** 2 if "patch_size" in vision else 0
        if entry.tiles:
            images = MOST_VIEWS * (image_tokens(entry.family, values or {}) or images)
        width = width_in(values or {})
        return None if width is None else PlannedSize(d_model=width, image_tokens=images)
    except (ValueError, KeyError, TypeError, ArithmeticError):
        # Loading the model tells what is wrong with it; this only plans.
        return None


def tokens_per_sample(config: Config, size: PlannedSize, dataset: str, kinds: list[str]) -> int:
    """Return how many tokens of one sample are stored."""
    known = config.all_datasets()
    text = text_tokens(dataset, known)
    if known[line_of(dataset, known)[-1]].kind == "text":
        # Documents have no images and are not put into a prompt format.
        is_english = config.world is not None and config.world.language == "english"
        usual = ENGLISH_DOCUMENT_TOKENS if is_english else WORLD_TEXT_TOKENS
        return (text or usual) * ("text" in kinds)
    text = text or WORLD_TEXT_TOKENS
    images = size.image_tokens if shows_images(dataset, known) else 0
    return (text + size.template_tokens) * ("text" in kinds) + images * ("image" in kinds)


def peak_bytes(config: Config) -> int | None:
    """Return the most bytes of activations that lie on disk at once; None if nobody knows yet.

    With `temporary`, shards that only trainings read lie there one group of layers at a time.
    """
    total = 0
    for series in planned_series(config):
        if series.bytes is None:
            return None
        grouped = config.extraction.store == "temporary" and training_only(
            config, series.model, series.dataset
        )
        share = len(layer_groups(config)[0]) / len(config.layers) if grouped else 1.0
        total += round(series.bytes * share)
    return total


def dictionary_bytes(config: Config) -> int | None:
    """Return the bytes of the default target's dictionaries and snapshots, in float32; None if not known."""
    size = planned_size(config, config.diff.model)
    if size is None:
        return None
    one = 2 * size.d_model * WEIGHT_BYTES * len(config.layers)
    trained = sum(
        (1 + len(config.dictionaries[name].snapshots)) * config.shape(name).d_sae * seeds
        for name, seeds in config.default_dictionaries().items()
    )
    published = len(config.published())
    return one * (trained + published * config.architecture.d_sae)

"""What an experiment is going to store and to train, in words, before it starts (docs/run/storage.md)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from vlmdiff.config.cases import fetched_sources
from vlmdiff.config.memory import at_once, training_bytes
from vlmdiff.config.own_data import OwnData
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_fetched
from vlmdiff.config.storage import dictionary_bytes, peak_bytes, planned_series, planned_size
from vlmdiff.config.together import is_streamed, trained_together

# What a model of eight billion parameters leaves of a card of 80 GB, and one of two to four of 24 GB.
FREE_BYTES = (62e9, 15e9)


# What formats are whose files all are of one kind.
KINDS = {"gemma_scope": "jumprelu", "gemma_scope_2": "jumprelu", "qwen_scope": "topk"}


def written(count: float | None) -> str:
    """Write a number of bytes for people."""
    if count is None:
        return "unknown until the models are there"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def plan(config: Config) -> str:
    """Write the plan for people: one line for each series, then the totals."""
    lines = [f"Activations that experiment '{config.experiment}' stores ({config.extraction.store}):"]
    for one in planned_series(config):
        tokens = "?" if one.tokens is None else one.tokens
        size = written(one.bytes)
        counted = f"{one.samples} samples x {tokens} tokens x {one.layers} layers"
        lines.append(f"  {one.model} on {one.dataset}: {counted}: {size}")
    lines.append(
        f"  at most {written(peak_bytes(config))} at once; dictionaries {written(dictionary_bytes(config))}"
    )
    parts = (passes(config), elsewhere(config), sorted(other_sparsity(config)), notes(config))
    return "\n".join([*lines, *chain(*parts)])


def passes(config: Config) -> Iterator[str]:
    """Yield how many layers are trained in one pass of the model, for trainings straight from it."""
    groups: dict[tuple[int, int, int], list[str]] = {}
    for name in config.default_dictionaries():
        if is_streamed(config, name) and (size := planned_size(config, config.dictionaries[name].model)):
            most = max(map(len, trained_together(config, name)))
            groups.setdefault((size.d_model, config.shape(name).d_sae, most), []).append(name)
    for (d_model, d_sae, most), names in groups.items():
        one = written(training_bytes(d_model, d_sae))
        runs = [-(-most // at_once(free, d_model, d_sae)) for free in FREE_BYTES]
        told = [f"{count} where {written(free)} are" for count, free in zip(runs, FREE_BYTES, strict=True)]
        yield (
            f"  {', '.join(names)}: {most} layer{'s' * (most > 1)} a job, {one} each; passes of the model by "
            f"the memory that is free: {', '.join(told)}"
        )


def elsewhere(config: Config) -> Iterator[str]:
    """Yield what has to come from the hub or from PyPI before anything runs, if anything has to."""
    entries = [*config.datasets.values(), *(config.dictionaries[name] for name in config.published())]
    places = [*fetched_sources(config).values(), *(getattr(one, "source", None) or "" for one in entries)]
    if names := list(dict.fromkeys(one.partition("@")[0] for one in places if is_fetched(one))):
        yield f"  fetched first (`snakemake sources`): {', '.join(names)}"


def other_sparsity(config: Config) -> Iterator[str]:
    """Yield which trainings start from a published dictionary that fires otherwise."""
    for name in config.default_dictionaries().keys() & config.trained().keys():
        start, shape = config.published().get(config.trained()[name].initial), config.shape(name)
        kind = KINDS.get(start.format) if start else None
        if kind and (kind != shape.kind or start.k not in (None, shape.k)):
            k = "" if start.k is None else f" with k = {start.k}"
            yield (
                f"  dictionaries.{name} is {shape.kind} with k = {shape.k}, but starts from one that is "
                f"{kind}{k}: features turn by that alone; set `architecture` alike"
            )


def notes(config: Config) -> Iterator[str]:
    """Yield what is left out of an experiment on photos that nobody asked to leave out."""
    if not isinstance(config.data, OwnData):
        return
    if note := config.data.note():
        yield note
    found, count = config.data.open_answers()
    name, first = next(iter(config.concepts.items()), ("", None))
    if config.ablation is None and found < count and first is not None and first.target.groups is None:
        yield (
            f"concepts.{name}: ablation and heads are left out; they need `groups`, of which all others are "
            "the control"
        )

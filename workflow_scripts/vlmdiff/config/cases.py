"""Which cases a configuration has: comparisons of each target, seeds, concepts, data that are asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlmdiff.config.analysis import AblationConfig, HeadsConfig, SteeringConfig
from vlmdiff.config.comparable import has_same_features
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.schema import Config
from vlmdiff.config.scoreboard import board_of
from vlmdiff.config.sources import is_fetched

# The folder into which the language model is fetched that is taught to see.
REAL_BASE = "world_base"
TARGETS = ("controls", "stages", "sensitivity")
SELECTION_RULES = ("contrast", "contrast_visual", "contrast_lexical", "contrast_adapted", "full")


def compared_cases(config: Config, target: str) -> list[tuple[str, int]]:
    """Return (comparison, seed) of a target's comparisons, the main one of the same seeds first.

    A model that was never tuned is a control, also where the default run makes its comparison.
    """
    further = [
        (name, seed)
        for name, one in config.comparisons.items()
        if one.target == target or (target == "controls" and name == config.diff.untuned)
        for seed in range(one.seeds)
    ]
    return [*((MAIN, seed) for seed in sorted({seed for _, seed in further})), *further]


def default_cases(config: Config) -> list[tuple[str, int]]:
    """Return (comparison, seed) of the default target's further comparisons, those of tuned models."""
    return [
        (name, seed)
        for name, one in config.comparisons.items()
        if one.target == "all" and name != config.diff.untuned
        for seed in range(one.seeds)
    ]


def explored_comparisons(config: Config) -> list[str]:
    """Return the comparisons whose numbers the explorer shows of each feature of the main one."""
    if config.explorer is not None and config.explorer.comparisons is not None:
        return config.explorer.comparisons
    return [
        name
        for name, one in config.comparisons.items()
        if one.target == "all" and has_same_features(config, name)
    ]


def compared_concepts(config: Config, target: str | None = None) -> list[str]:
    """Return the concepts for which a target's comparisons are made: the studied ones, and those that ask so.

    Args:
        config: the configuration.
        target: it; any of them if left out.
    """
    studied = config.studied_concepts()
    return [
        name
        for name, concept in config.concepts.items()
        if name in studied or (bool(concept.compared) if target is None else target in concept.compared)
    ]


def concept_seeds(config: Config, concept: str) -> range:
    """Return the seeds for which a concept's features are selected: all if it is studied, else the first."""
    return range(config.seeds if concept in config.studied_concepts() else 1)


def scored_seeds(config: Config, dictionary: str) -> range:
    """Return the seeds for which a dictionary is scored; an imported one is the same for all."""
    if dictionary in config.published():
        return range(1)
    entries = [entry for entry in config.evaluation if dictionary in entry.dictionaries]
    return range(max(min(entry.seeds or config.seeds, config.seeds) for entry in entries))


def described_cases(config: Config, target: str, concept: str) -> list[dict[str, Any]]:
    """Return the plain values that describe each comparison of a target."""
    return [
        {
            "comparison": name,
            "about": "the main comparison" if name == MAIN else config.comparisons[name].about,
            "rule": config.comparison(name).rule,
            "base": config.comparison(name).base,
            "untuned": config.models[config.comparison(name).model].untuned is not None,
            "seed": seed,
            "unit": config.concepts[concept].unit,
        }
        for name, seed in compared_cases(config, target)
    ]


def selection_rules(config: Config, comparison: str) -> list[str]:
    """Return the rules whose features are ablated.

    All of the main comparison; of the others the full one, and of methods on the scoreboard the contrast's.
    """
    if comparison == MAIN:
        return list(SELECTION_RULES)
    board = board_of(config)
    methods = board.methods.values() if board else ()
    return ["contrast", "full"] if any(one.comparison == comparison for one in methods) else ["full"]


def reported_rules(config: Config) -> dict[str, list[str]]:
    """Return the selection rules of every comparison of the default target in which a model was tuned."""
    return {name: selection_rules(config, name) for name in (MAIN, *dict(default_cases(config)))}


def selection_facts(config: Config) -> dict[str, Any]:
    """Return by which sizes selection rules are compared, and which rules; nothing without ablation."""
    if config.ablation is None:
        return {}
    return {"sizes": config.ablation.selection_sizes, "rules": reported_rules(config)}


def headline_facts(config: Config) -> dict[str, Any] | None:
    """Return the one result that is claimed, and all that is ablated; None without ablation."""
    if config.ablation is None:
        return None
    return {
        "concept": config.ablation.concepts[0],
        **config.ablation.headline.params(),
        "concepts": config.ablation.concepts,
        "scopes": config.ablation.scopes,
        "sizes": config.ablation.set_sizes,
        "seeds": config.seeds,
    }


def reported_data(section: AblationConfig | HeadsConfig | SteeringConfig | None) -> list[str]:
    """Return a section's test data, target and control; none of a section that is left out."""
    return [] if section is None else [section.report_on.target, section.report_on.control]


def question_sets(config: Config) -> Iterator[tuple[str, str, int]]:
    """Yield (key, data set, most samples) of questions whose answers are scored against other choices."""
    sections = {"ablation": config.ablation, "heads": config.heads, "steering": config.steering}
    for name, section in sections.items():
        for use in ("rank_on", "report_on"):
            if (data := getattr(section, use, None)) is not None:
                yield f"{name}.{use}.target", data.target, data.samples
                yield f"{name}.{use}.control", data.control, data.samples


def asking_models(config: Config, key: str) -> list[str]:
    """Return the models that are asked the questions of a key of `question_sets`."""
    section, use, _ = key.split(".")
    if section == "steering":
        return [config.steering.model]
    found = [config.diff.model]
    if section == "ablation" and use == "report_on":
        found += [one.model for one in config.all_comparisons().values()] + list(config.stages.models)
    return list(dict.fromkeys(found))


def asked_data(config: Config) -> dict[str, int]:
    """Return the test data of ablations and heads, with the number of samples that are asked of each."""
    found: dict[str, int] = {}
    for section in filter(None, (config.ablation, config.heads)):
        for name in reported_data(section):
            found[name] = max(section.report_on.samples, found.get(name, 0))
    return found


def fetched_sources(config: Config) -> dict[str, str]:
    """Return the checkpoints and vision towers that are fetched, by the name of their folder.

    The language model that is taught to see the built-in world is one of them.
    """
    found = {name: model.path for name, model in config.models.items()}
    towers = {name: model.vision_tower for name, model in config.models.items()}
    found |= {f"{name}_vision_tower": source for name, source in towers.items() if source}
    if config.world and config.world.real_model:
        found[REAL_BASE] = config.world.real_model.base
    return {name: source for name, source in found.items() if is_fetched(source)}


def trained_shape(config: Config, dictionary: str) -> dict[str, Any]:
    """Return a dictionary's architecture, with the default for what its training does not read."""
    shape, unread = config.shape(dictionary), set()
    if shape.kind != "jumprelu":
        unread |= {"bandwidth", "l0_coefficient"}
    if config.dictionaries[dictionary].initial != "random":
        # A warm start keeps what it starts from.
        unread.add("subtract_decoder_bias")
    return shape.params() | {name: type(shape).model_fields[name].default for name in unread}

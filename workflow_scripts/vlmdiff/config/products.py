"""Which tables and pages each target makes, as paths below the folder of results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlmdiff.config.cases import (
    asked_data,
    compared_cases,
    compared_concepts,
    concept_seeds,
    default_cases,
    fetched_sources,
    reported_data,
    scored_seeds,
    selection_facts,
)
from vlmdiff.config.causal import ground_truth_datasets
from vlmdiff.config.checkpoints import checkpoints
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.datasets import is_prepared
from vlmdiff.config.figures import figures
from vlmdiff.config.held_out import reported
from vlmdiff.config.local_files import used
from vlmdiff.config.omitted import omitted
from vlmdiff.config.schema import Config, references
from vlmdiff.config.scoreboard import board_of
from vlmdiff.config.subsets import line_of


def experiment(config: Config) -> list[str]:
    """Return what the default target makes, what it cost and where it comes from aside.

    Snakemake makes again what was deleted only if a target names it: so tables that people read are named
    here, though the summary would ask for them.
    """
    # Ablation, if any, asks for the funnels of its comparisons.
    funnels = [] if config.ablation else funnel_tables(default_cases(config), config.studied_concepts())
    tables = summary_tables(config)
    read = ("selection", "recurrence", "labels", "quality", "steering")
    return [
        *("config.yaml", "summary.md", *(["explorer"] if config.explorer else [])),
        *(f"figures/{name}.svg" for name in figures(config)),
        *(file for name in read for file in tables[name]),
        *funnels,
    ]


def sources(config: Config) -> list[str]:
    """Return what is fetched or prepared: checkpoints, dictionaries, and data sets that some stage uses.

    Subsets of the built-in world come from no other place.
    """
    datasets, world = config.all_datasets(), config.world_datasets()
    prepared = {
        name
        for name, entry in config.datasets.items()
        if is_prepared(entry) and line_of(name, datasets)[-1] not in world
    }
    return [
        *(f"models/{name}/config.json" for name in fetched_sources(config)),
        *(f"dictionaries/{name}/sources.json" for name in config.published()),
        *(f"data/{name}/samples.jsonl" for name in sorted(prepared & used(config, "dataset"))),
    ]


def summary_tables(config: Config) -> dict[str, list[str]]:
    """Return the tables that the summary tells of, by name; none of a stage that is left out."""
    studied, seeds = config.studied_concepts(), range(config.seeds)
    return {
        "accuracy": accuracy_tables(config),
        "perplexity": ["perplexity.csv"] if config.perplexity else [],
        "held_out": [f"held_out/{name}.csv" for name in reported(references(config))],
        "asked": [f"accuracy/{config.diff.model}.csv"] if asked_data(config) else [],
        "left_out": ["activations/left_out.csv"],
        "metrics": metrics_tables(config),
        "thresholds": [f"features/main/seed_{seed}/thresholds.csv" for seed in seeds],
        "funnel": [
            f"features/main/seed_{seed}/{concept}/funnel.csv"
            for concept in config.concepts
            for seed in concept_seeds(config, concept)
        ],
        "untuned": untuned_funnels(config),
        "ablation": ablation_tables(config),
        "scores": heads_tables(config, "scores"),
        "agreement": heads_tables(config, "agreement"),
        "head_ablation": heads_tables(config, "head_ablation"),
        "check": [
            f"features/main/seed_{seed}/{concept}/contrast_check.csv" for seed in seeds for concept in studied
        ],
        "recurrence": [f"features/main/recurrence/{concept}.csv" for concept in studied if len(seeds) > 1],
        "quality": rule_quality(config),
        "selection": selection_tables(config, [(MAIN, 0), *default_cases(config)], studied),
        "steering": [
            f"interventions/seed_0/{concept}/steering.csv"
            for concept in (config.steering.concepts if config.steering else [])
        ],
        "labels": label_tables(config, "labels"),
    }


def summary_facts(config: Config) -> dict[str, Any]:
    """Return the plain values that the summary tells of the configuration."""
    return {
        "experiment": config.experiment,
        "model": config.diff.model,
        "adapted": config.diff.adapted,
        "rule": config.diff.rule,
        "ablation_data": reported_data(config.ablation),
        "heads_data": reported_data(config.heads),
        "steering_data": reported_data(config.steering),
        "checkpoints": checkpoints(config),
        "contrasts": {
            name: {"by": one.contrast, "unit": one.unit, "fdr": one.fdr, "lexical": one.lexical}
            for name, one in config.concepts.items()
        },
        "selection": selection_facts(config),
        "omitted": omitted(config),
        "explorer": config.explorer is not None,
        "perplexity_limit": config.perplexity.limit if config.perplexity else None,
    }


def accuracy_tables(config: Config) -> list[str]:
    """Return the accuracies of the world's checkpoints; none where no model of the config is one of them."""
    if not checkpoints(config):
        return []
    return [f"world/accuracy_{'shipped' if config.world.models == 'shipped' else 'trained'}.csv"]


def metrics_tables(config: Config) -> list[str]:
    """Return the quality of all dictionaries and seeds."""
    names = {name for entry in config.evaluation for name in entry.dictionaries}
    return [
        f"dictionaries/{name}/seed_{seed}/metrics.csv"
        for name in sorted(names)
        for seed in scored_seeds(config, name)
    ]


def ablation_tables(config: Config) -> list[str]:
    """Return the test effects of all ablated concepts and seeds."""
    return [
        f"interventions/seed_{seed}/{concept}/ablation_{scope}.csv"
        for seed in range(config.seeds)
        for concept in (config.ablation.concepts if config.ablation else [])
        for scope in config.ablation.scopes
    ]


def chosen_tables(config: Config) -> list[str]:
    """Return the test effects of features of the user's own; none if there are none."""
    return [
        f"interventions/chosen/seed_0/{concept}/ablation_{scope}.csv"
        for concept in (config.ablation.concepts if config.ablation and config.ablation.chosen else [])
        for scope in config.ablation.scopes
    ]


def heads_tables(config: Config, name: str) -> list[str]:
    """Return one table of each traced concept for every seed; none if no feature is traced."""
    concepts = config.heads.concepts if config.heads else []
    return [f"heads/seed_{seed}/{concept}/{name}.csv" for concept in concepts for seed in range(config.seeds)]


def rule_quality(config: Config) -> list[str]:
    """Return the tables on the quality of selection rules; none without scene graphs."""
    return [
        f"ground_truth/seed_{seed}/{concept}/rule_quality.csv"
        for concept in (compared_concepts(config) if ground_truth_datasets(config) else [])
        for seed in concept_seeds(config, concept)
    ]


def label_tables(config: Config, name: str) -> list[str]:
    """Return one table on the features of all studied concepts and seeds."""
    return [
        f"labels/seed_{seed}/{concept}/{name}.csv"
        for seed in range(config.seeds)
        for concept in config.studied_concepts()
    ]


def selection_tables(config: Config, cases: Iterable[tuple[str, int]], concepts: Iterable[str]) -> list[str]:
    """Return what ablating the features of (comparison, seed) does; nothing without ablation."""
    return [
        f"interventions/comparisons/{comparison}/seed_{seed}/{concept}/selection.csv"
        for comparison, seed in (cases if config.ablation else [])
        for concept in concepts
    ]


def funnel_tables(cases: Iterable[tuple[str, int]], concepts: Iterable[str]) -> list[str]:
    """Return how many features each criterion leaves in (comparison, seed)."""
    return [
        f"features/{comparison}/seed_{seed}/{concept}/funnel.csv"
        for comparison, seed in cases
        for concept in concepts
    ]


def untuned_funnels(config: Config) -> list[str]:
    """Return the funnels of the model that was never tuned, for all concepts that are compared."""
    name = config.diff.untuned
    seeds = range(config.comparisons[name].seeds if name else 0)
    return funnel_tables([(name, seed) for seed in seeds], compared_concepts(config))


def comparison_products(config: Config, target: str) -> list[str]:
    """Return the tables, figures and page of a target; none if it has no comparisons."""
    if not compared_cases(config, target):
        return []
    concepts = compared_concepts(config, target)
    return [
        *(f"comparisons/{target}/{concept}.csv" for concept in concepts),
        *(f"figures/{target}/{concept}/comparisons.svg" for concept in concepts),
        f"comparisons/{target}.md",
    ]


def scoreboard_products(config: Config) -> list[str]:
    """Return the tables, the page and the figure of the scoreboard; none if the config has none."""
    if board_of(config) is None:
        return []
    names = ("scoreboard.csv", "limits.csv", "control_finds.csv", "scoreboard.md")
    return [*(f"scoreboard/{name}" for name in names), "figures/scoreboard/scoreboard.svg"]


def stage_products(config: Config) -> list[str]:
    """Return what the target `stages` makes in addition to its comparisons."""
    grid = ["stages/seed_0/grid.parquet", "figures/stages/stage_grid.svg"] if config.stages.grid else []
    transferred = config.studied_concepts() if config.stages.models else []
    return grid + [
        file
        for concept in transferred
        for file in (f"stages/seed_0/{concept}/transfer.csv", f"figures/stages/{concept}/transfer.svg")
    ]

"""What the scoreboard holds against one another: plain values with the paths of their tables."""

from __future__ import annotations

from typing import Any

from vlmdiff.config.comparisons import CROSSCODER, DRIFT, MAIN
from vlmdiff.config.products import selection_tables
from vlmdiff.config.schema import Config
from vlmdiff.config.scoreboard import board_concepts, board_of, board_seeds
from vlmdiff.config.storage import drifting_models


def method_entries(config: Config, folder: str) -> list[dict[str, Any]]:
    """Return every method, concept and seed.

    Args:
        config: the configuration.
        folder: of the experiment's results.
    """
    if (board := board_of(config)) is None:
        return []
    return [
        method_entry(config, folder, name, method.comparison, concept, seed)
        for name, method in board.methods.items()
        for concept in board_concepts(config)
        for seed in board_seeds(config)
    ]


def method_entry(
    config: Config, folder: str, method: str, comparison: str, concept: str, seed: int
) -> dict[str, Any]:
    """Return one method, concept and seed: its names, and where its tables and measurements lie."""
    return {
        "method": method,
        "concept": concept,
        "contrast": config.concepts[concept].contrast,
        "seed": seed,
        "scores": f"{folder}/scoreboard/scores/{comparison}/seed_{seed}/{concept}.csv",
        "limits": f"{folder}/scoreboard/limits/{comparison}/seed_{seed}/{concept}.csv",
        "selection": selection_table(config, folder, comparison, concept, seed),
        "recurrence": recurrence_table(config, folder, comparison, concept),
        "benchmarks": benchmarks(config, comparison, concept, seed),
    }


def selection_table(config: Config, folder: str, comparison: str, concept: str, seed: int) -> str | None:
    """Return where it stands what ablating features does; None where nothing is ablated."""
    tables = selection_tables(config, [(comparison, seed)], [concept])
    return f"{folder}/{tables[0]}" if tables else None


def recurrence_table(config: Config, folder: str, comparison: str, concept: str) -> str | None:
    """Return where it stands which findings recur over seeds; None where a single one is scored."""
    if len(board_seeds(config)) == 1:
        return None
    whole = len(board_seeds(config)) == config.seeds
    if comparison == MAIN and whole and concept in config.studied_concepts():
        return f"{folder}/features/main/recurrence/{concept}.csv"
    return f"{folder}/scoreboard/recurrence/{comparison}/{concept}.csv"


def benchmarks(config: Config, comparison: str, concept: str, seed: int) -> list[str]:
    """Return which jobs are a method's own: trainings after the base, statistics, diff, contrast, filter."""
    diff = config.comparison(comparison)
    of_base = set() if diff.method == CROSSCODER else {diff.base, *config.ancestors(diff.base)}
    adapted = [one for one in (diff.adapted, *config.ancestors(diff.adapted)) if one not in of_base]
    trained = adapted if diff.method == DRIFT else [*adapted, diff.null]
    sides = [side.dataset for side in config.concepts[concept].sides.values()]
    statistics = f"feature_statistics/{diff.adapted}/seed_{seed}"
    read = [f"{diff.model}/{one}" for one in sorted({*diff.visual_datasets, *diff.text_datasets, *sides})]
    read += [
        f"{model}/{dataset}" for model in drifting_models(config, diff) for dataset in diff.visual_datasets
    ]
    return [
        *(f"train_dictionary/{name}/seed_{seed}/*.tsv" for name in trained),
        *(f"{statistics}/{place}/*.tsv" for place in read),
        *(f"{rule}/{comparison}/seed_{seed}.tsv" for rule in ("diff_features", "select_adapted")),
        *(f"{rule}/{comparison}/seed_{seed}/{concept}.tsv" for rule in ("contrast_*", "lexical_filter")),
    ]


def control_entries(config: Config, folder: str) -> list[dict[str, Any]]:
    """Return every control and concept, and the controls of submissions; arguments as of `method_entries`."""
    if (board := board_of(config)) is None:
        return []
    of_methods = [
        {
            "method": name,
            "concept": concept,
            "control": control,
            "seed": seed,
            "ranking": f"{folder}/scoreboard/rankings/{control}/seed_{seed}/{concept}.parquet",
        }
        for name, method in board.methods.items()
        for control in method.controls
        for seed in range(1 if control == MAIN else config.comparisons[control].seeds)
        for concept in board_concepts(config)
    ]
    return of_methods + [
        {"method": name, "control": control, "seed": 0, "file": file}
        for name, one in board.submissions.items()
        for control, file in one.controls.items()
    ]


def submission_entries(config: Config, folder: str) -> list[dict[str, Any]]:
    """Return every submission; arguments as of `method_entries`."""
    if (board := board_of(config)) is None:
        return []
    return [
        {
            "method": name,
            "scores": f"{folder}/scoreboard/submissions/{name}.csv",
            "seconds": one.seconds,
            # They have neither sets to ablate nor other seeds to recur in.
            "selection": None,
            "recurrence": None,
        }
        for name, one in board.submissions.items()
    ]

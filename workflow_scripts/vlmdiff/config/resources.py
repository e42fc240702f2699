"""What jobs ask of the machine: what suits the built-in world, or what the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from vlmdiff.config.schema import Config

# Memory in MB and time in minutes of the rules that need more than `SMALL`.
SMALL = (1000, 5)
NEEDS = MappingProxyType(
    {
        "fetch_model": (1000, 240),
        "fetch_dictionary": (1000, 240),
        "prepare_dataset": (4000, 240),
        "hold_out": (2000, 30),
        "train_world_base_lm": (1200, 20),
        "train_world_vision": (2000, 20),
        "train_world_vlm": (2000, 120),
        "train_world_control": (2000, 120),
        "fit_frame": (3000, 20),
        "tune_adapter": (16000, 480),
        "merge_adapter": (4000, 20),
        "evaluate_world": (1500, 10),
        "extract_activations": (2000, 60),
        "import_dictionary": (4000, 15),
        "estimate_scale": (2000, 30),
        "train_dictionary": (2000, 60),
        "evaluate_dictionary": (2000, 30),
        "feature_statistics": (2000, 60),
        "diff_features": (1000, 30),
        "select_adapted": (1000, 10),
        "contrast_concept": (1000, 30),
        "contrast_text_matched": (2000, 60),
        "contrast_counterfactual": (2000, 60),
        "lexical_filter": (2000, 60),
        "select_features": (1000, 10),
        "label_features": (2000, 60),
        "describe_features": (1000, 240),
        "collect_gallery": (2000, 15),
        "collect_examples": (2000, 60),
        "write_explorer": (2000, 60),
        "evaluate_model": (2000, 30),
        "evaluate_perplexity": (3000, 60),
        "rank_features": (2000, 30),
        "evaluate_ablation": (3000, 120),
        "evaluate_steering": (3000, 120),
        "attribute_heads": (3000, 30),
        "patch_heads": (3000, 60),
        "evaluate_head_ablation": (3000, 60),
        "map_attention": (2000, 15),
        "match_seeds": (1000, 60),
        "evaluate_selection": (3000, 60),
        "summarise_comparisons": (2000, 30),
        "compare_stages": (1000, 30),
        "evaluate_transfer": (3000, 120),
        "score_ground_truth": (2000, 30),
        "evaluate_rules": (1000, 10),
        "score_submission": (2000, 30),
        "summarise_scoreboard": (1000, 10),
        "verify": (500, 240),
    }
)


def growing(first: int) -> Callable[..., int]:
    """Return a resource that is half of the first request larger with every retry."""
    return lambda wildcards, attempt: first * (1 + attempt) // 2


def resources(config: Config, rule: str) -> dict[str, Any]:
    """Return the resources of a rule, for Snakemake.

    Memory and time given as numbers grow when a job is tried again; words (`12h`) stay as they are.
    """
    said = config.resources.get(rule, {})
    if rule == "estimate_scale":
        # One process of a training, for a shorter time.
        training = config.resources.get("train_dictionary", {})
        said = {name: value for name, value in training.items() if name != "runtime"} | said
    chosen = dict(zip(("mem_mb", "runtime"), NEEDS.get(rule, SMALL), strict=True)) | said
    for name in ("mem_mb", "runtime"):
        if isinstance(chosen[name], int):
            chosen[name] = growing(chosen[name])
    return chosen | training_processes(config, chosen) if rule == "train_dictionary" else chosen


def training_processes(config: Config, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return what a training asks for its processes: a GPU each, if any; on several nodes a task of Slurm.

    Args:
        config: the configuration.
        chosen: its other resources; `gpu` among them counts for one process.
    """
    stages, asked = config.dictionaries, {}
    if "gpu" in chosen:
        asked["gpu"] = lambda wildcards: chosen["gpu"] * stages[wildcards.dictionary].processes
    if any(stage.nodes > 1 for stage in config.trained().values()):
        asked["nodes"] = lambda wildcards: stages[wildcards.dictionary].nodes
        asked["tasks"] = lambda wildcards: stages[wildcards.dictionary].processes
        asked["tasks_per_gpu"] = 1
    return asked


def resource_problems(config: Config, rules: Iterable[str]) -> list[str]:
    """Return a line for each rule without jobs to which the configuration gives resources.

    Args:
        config: the configuration.
        rules: names of all rules with jobs.
    """
    lines = []
    for name in sorted(config.resources.keys() - set(rules)):
        near = get_close_matches(name, rules, n=1)
        hint = f"did you mean {near[0]}?" if near else "`snakemake --list-rules` lists all rules"
        lines.append(f"resources.{name}: found '{name}', which has no jobs in this workflow; {hint}")
    return lines

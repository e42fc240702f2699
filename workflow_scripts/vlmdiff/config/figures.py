"""Which figures the default target draws."""

from __future__ import annotations

from vlmdiff.config.cases import asked_data
from vlmdiff.config.causal import ground_truth_datasets
from vlmdiff.config.checkpoints import checkpoints
from vlmdiff.config.schema import Config


def figures(config: Config) -> list[str]:
    """Return the figures of the default target, as paths below the folder of figures without their endings.

    Figures of one seed are drawn for the first.
    """
    scores = ["fvu_by_layer", "training_dynamics"] if config.evaluation else []
    answers = ["model_accuracy"] if asked_data(config) or checkpoints(config) else []
    whole = [*scores, "cosine_distributions", "adapted_by_layer", "threshold_robustness", *answers]
    of_concepts = [
        f"{concept}/{name}" for name, concepts in by_concept(config).items() for concept in concepts
    ]
    of_seeds = [
        f"seed_0/{concept}/{name}" for name, concepts in by_seed(config).items() for concept in concepts
    ]
    return [*whole, *of_concepts, *of_seeds]


def by_concept(config: Config) -> dict[str, list[str]]:
    """Return the concepts of each figure that shows one concept in all seeds."""
    studied = config.studied_concepts()
    return {
        "selection_rules": studied if config.ablation else [],
        "recurrence": studied if config.seeds > 1 else [],
        "ground_truth": studied if ground_truth_datasets(config) else [],
    }


def by_seed(config: Config) -> dict[str, list[str]]:
    """Return the concepts of each figure that shows one concept in one seed."""
    concepts, studied = list(config.concepts), config.studied_concepts()
    found = dict.fromkeys(("energy_vs_cosine", "contrast_volcano", "funnel"), concepts)
    found["top_samples"] = studied
    if config.ablation:
        found |= dict.fromkeys(("ablation_effects", "ablation_by_group"), studied)
    if config.heads:
        names = ("head_attribution", "attribution_vs_exact", "head_ablation", "attention_map")
        found |= dict.fromkeys(names, config.heads.concepts)
    if config.steering:
        found["steering"] = config.steering.concepts
    return found

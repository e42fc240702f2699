"""Which stages a configuration leaves out, and which rules belong to them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmdiff.config.schema import Config

# Rules that make nothing without a section. A rule that reads several stands under the one it needs first.
RULES = MappingProxyType(
    {
        "evaluation": ("evaluate_dictionary", "plot_fvu_by_layer", "plot_training_dynamics"),
        "perplexity": ("evaluate_perplexity",),
        "ablation": (
            "evaluate_model",
            "rank_features",
            "evaluate_ablation",
            "read_chosen",
            "rank_chosen",
            "ablate_chosen",
            "plot_ablation_effects",
            "plot_ablation_by_group",
            "evaluate_selection",
            "plot_selection_rules",
            "evaluate_transfer",
            "plot_transfer",
            "score_ground_truth",
            "evaluate_rules",
            "plot_ground_truth",
        ),
        "heads": (
            "attribute_heads",
            "aggregate_heads",
            "patch_heads",
            "evaluate_head_ablation",
            "map_attention",
            "plot_head_attribution",
            "plot_attribution_vs_exact",
            "plot_head_ablation",
            "plot_attention_map",
        ),
        "steering": ("evaluate_steering", "plot_steering"),
        "explorer": ("collect_examples", "write_explorer"),
        "labelling": ("describe_features",),
    }
)


def omitted(config: Config) -> list[str]:
    """Return the stages of the default target that the configuration leaves out, by their keys."""
    filtered = any(concept.lexical for concept in config.concepts.values())
    given = {
        "evaluation": config.evaluation,
        "lexical": filtered,
        "ablation": config.ablation,
        "heads": config.heads,
        "steering": config.steering,
    }
    return [key for key, value in given.items() if not value]


def omitted_rules(config: Config) -> dict[str, str]:
    """Return the rules that make nothing because a section is left out, each with the section's key."""
    return {rule: key for key, rules in RULES.items() if not getattr(config, key) for rule in rules}


def explain_omitted(target: str, key: str) -> str:
    """Say in one line that a target belongs to a stage that is left out.

    Args:
        target: a rule or a file that was asked for.
        key: key of the section.
    """
    return f"{target}: needs `{key}`, which this configuration leaves out (none); fill in `{key}` to make it"

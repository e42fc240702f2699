"""The stages that ask the model: what they refer to, and what they need of one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlmdiff.config.chosen import chosen_features

if TYPE_CHECKING:
    from vlmdiff.config.analysis import CausalData
    from vlmdiff.config.schema import Config


def causal_references(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, key, name) for what ablation, heads and steering refer to; nothing of one left out."""
    uses: dict[str, CausalData] = {}
    if (ablation := config.ablation) is not None:
        yield from (("concept", "ablation.concepts", name) for name in ablation.concepts)
        uses |= {"ablation.rank_on": ablation.rank_on, "ablation.report_on": ablation.report_on}
    if (heads := config.heads) is not None:
        yield from (("concept", "heads.concepts", name) for name in heads.concepts)
        yield "dataset", "heads.dataset", heads.dataset
        yield "dataset", "heads.head_means.dataset", heads.head_means.dataset
        uses["heads.report_on"] = heads.report_on
    if (steering := config.steering) is not None:
        yield from (("concept", "steering.concepts", name) for name in steering.concepts)
        yield "model", "steering.model", steering.model
        uses |= {"steering.rank_on": steering.rank_on, "steering.report_on": steering.report_on}
    for key, data in uses.items():
        yield "dataset", f"{key}.target", data.target
        yield "dataset", f"{key}.control", data.control


def check_needs(config: Config) -> None:
    """Refuse a stage without the stage whose results it reads.

    Raises:
        ValueError: naming both keys and what to do, a line for each.
    """
    lines = []
    if config.ablation is None:
        ranked = {"heads": config.heads, "steering": config.steering}
        lines += [
            f"{key}: needs `ablation`, which is none: it takes the best features of that ranking; write "
            f"`{key}: none`, or fill in `ablation`"
            for key, section in ranked.items()
            if section is not None
        ]
        if config.stages.models:
            lines.append(
                "stages.models: needs `ablation`, which is none: the best features of its ranking are "
                "ablated in these models; leave stages.models out, or fill in `ablation`"
            )
    lines += [
        f"concepts.{name}.lexical: needs `lexical.prompts`, and there are none; write some, such as "
        f"[\"Describe the image.\"], or `lexical: false` for concept '{name}'"
        for name, concept in config.concepts.items()
        if concept.lexical and not config.lexical.prompts
    ]
    if lines:
        raise ValueError("\n  ".join(lines))


def ground_truth_datasets(config: Config) -> list[str]:
    """Return the held-out data sets whose scene graphs are known: those of the built-in world.

    Those that ablation reports on; none without it.
    """
    if config.ablation is None:
        return []
    report_on = config.ablation.report_on
    known = config.world_datasets()
    return [name for name in (report_on.target, report_on.control) if name in known]


def check_chosen(config: Config) -> None:
    """Refuse features of the user's own that cannot be ablated, before anything runs.

    Raises:
        ValueError: see `chosen_features`.
    """
    if config.ablation is None or config.ablation.chosen is None:
        return
    trained = config.diff.adapted in config.trained()
    d_sae = config.shape(config.diff.adapted).d_sae if trained else None
    chosen_features(config.ablation.chosen, config.layers, d_sae)

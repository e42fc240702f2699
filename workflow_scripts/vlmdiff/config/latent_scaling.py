"""Latent scaling: how strongly the model before tuning has the features of the one after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdiff.config.comparable import check_widths, same_model
from vlmdiff.config.comparisons import MAIN, ROTATION
from vlmdiff.config.nulls import saw_images

if TYPE_CHECKING:
    from vlmdiff.config.analysis import DiffConfig
    from vlmdiff.config.schema import Config


def is_scaled(diff: DiffConfig) -> bool:
    """Tell whether a comparison measures latent scaling."""
    return diff.method == ROTATION and diff.base_model is not None


def check_latent_scaling(config: Config) -> None:
    """Check the models before tuning in which rotations look for their features.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    for label, diff in config.all_comparisons().items():
        if not is_scaled(diff):
            continue
        key = f"{'diff' if label == MAIN else f'comparisons.{label}'}.base_model"
        if same_model(config, diff.base_model, diff.model):
            raise ValueError(
                f"{key}: found '{diff.base_model}', which is `model` too, expected the model before tuning; "
                "name that, or leave it out"
            )
        if saw_images(config, diff.base_model, diff.model):
            raise ValueError(
                f"{key}: found '{diff.base_model}', a model that was tuned with images, expected the "
                "language model before that; name it, or leave base_model out"
            )
        check_widths(config, key, (diff.base_model, diff.model))

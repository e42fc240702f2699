"""How many tokens a picture takes, as far as a checkpoint's config.json tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vlmdiff.config.families import BESIDE_PATCHES


def of_patches(description: Mapping[str, Any]) -> float:
    """Return the number of a tower's patches."""
    vision = description["vision_config"]
    sizes = [vision[key] for key in ("image_size", "patch_size")]
    height, patch = (size[0] if isinstance(size, list) else size for size in sizes)
    return (height // patch) ** 2


def of_llava(description: Mapping[str, Any]) -> float | None:
    """Return the number of a tower's outputs that are kept, where its kind is known."""
    beside = BESIDE_PATCHES.get(description["vision_config"].get("model_type"))
    left_out = description.get("vision_feature_select_strategy", "default") == "default"
    return None if beside is None else of_patches(description) + beside - left_out


def of_llava_next(description: Mapping[str, Any]) -> float | None:
    """Return those of one view of the whole picture, which a learned token ends."""
    view = of_llava(description)
    return None if view is None else view + 1


COUNTS: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "gemma3": lambda told: told.get("mm_tokens_per_image", 256),
    "idefics3": lambda told: of_patches(told) / told.get("scale_factor", 2) ** 2,
    "internvl": lambda told: of_patches(told) * told.get("downsample_ratio", 0.5) ** 2,
    "llava": of_llava,
    "llava_next": of_llava_next,
    "paligemma": of_patches,
}


def image_tokens(family: str, description: Mapping[str, Any]) -> int | None:
    """Return how many tokens every picture takes; None if that is not told, or follows the picture's size.

    Args:
        family: of the checkpoint.
        description: content of its config.json.
    """
    try:
        found = COUNTS[family](description) if family in COUNTS else None
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, AttributeError):
        return None
    return None if found is None else int(found)

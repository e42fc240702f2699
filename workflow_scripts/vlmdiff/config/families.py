"""Which checkpoints each family of models reads, by what their config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Family = Literal[
    "causal_lm",
    "gemma3",
    "idefics3",
    "internvl",
    "llava",
    "llava_next",
    "llava_original",
    "paligemma",
    "pixtral",
    "qwen_vl",
]

LANGUAGE_MODEL, LLAVA_ORIGINAL = "causal_lm", "llava_original"
# A `llava` whose tower makes more tokens of larger pictures, and wants tokens that break and end rows.
PIXTRAL = "llava with a pixtral tower"
# `model_type` of the checkpoints that a family reads; none: every decoder without a vision tower.
MODEL_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "causal_lm": (),
        "gemma3": ("gemma3",),
        "idefics3": ("idefics3", "smolvlm"),
        "internvl": ("internvl",),
        "llava": ("llava",),
        "llava_next": ("llava_next", "llava_onevision"),
        "llava_original": (
            *("llava_llama", "llava_llama_3", "llava_llama_3_1", "llava_llama_2"),
            *("llava_gemma", "llava_phi"),
        ),
        "paligemma": ("paligemma",),
        "pixtral": ("mistral3", PIXTRAL),
        "qwen_vl": ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
    }
)
# Checkpoints that no family reads although transformers does, by `model_type`, and why.
STATEFUL = (
    "most of its blocks keep a running state (gated delta networks) where others have attention, so there "
    "are no heads to trace in them; use a checkpoint with attention in every block, such as {instead}"
)
UNREAD: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("qwen3_5", "qwen3_5_moe"), STATEFUL.format(instead="Qwen3-VL"))
    | dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), STATEFUL.format(instead="Qwen 3"))
)
# What sees itself in both directions, in families where something does, and the attention that lets it.
BOTH_WAYS: Mapping[str, str] = MappingProxyType({"paligemma": "a prompt", "gemma3": "an image"})
UNFLASHED: Mapping[str, str] = MappingProxyType(
    {
        "paligemma": "`attention: eager`, or `sdpa` if the language model is the first Gemma",
        "gemma3": "`attention: sdpa` or `eager`",
    }
)
# Families that can show a picture's tiles as well as the picture.
TILED = ("idefics3",)
# Keys of a model that sees.
SEES = ("vision_config", "mm_vision_tower")
# What projector and tower of `llava_original` must be.
ORIGINAL_PARTS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_vision_select_feature": ("patch", "cls_patch"),
        "mm_patch_merge_type": ("flat",),
        "mm_use_im_start_end": (False,),
        "mm_use_im_patch_token": (False,),
        # Features of several scales in one token.
        "s2": (False,),
    }
)
# Outputs that a vision tower has as well as one for each patch.
BESIDE_PATCHES = MappingProxyType({"clip_vision_model": 1, "siglip_vision_model": 0})
# Models that hold its vision tower, which may lie with a text tower.
ORIGINAL_TOWERS = ("clip", "clip_vision_model", "siglip", "siglip_vision_model")
# What the name of a class says that writes the next token.
WRITERS = ("ForCausalLM", "LMHead")


def kind_of(description: Mapping[str, Any]) -> str | None:
    """Return a checkpoint's model_type.

    The first LLaVA checkpoints of the original layout call themselves `llava`, as transformers' own do,
    and so does Pixtral.

    Args:
        description: content of its config.json.
    """
    kind, vision = description.get("model_type"), description.get("vision_config")
    if kind == "llava" and isinstance(vision, Mapping) and vision.get("model_type") == "pixtral":
        return PIXTRAL
    original = kind == "llava" and "mm_vision_tower" in description and "vision_config" not in description
    return "llava_llama" if original else kind


def fitting_families(description: Mapping[str, Any]) -> list[str]:
    """Return the families that read a checkpoint because they name its model_type.

    Args:
        description: content of its config.json.
    """
    kind = kind_of(description)
    return sorted(family for family, kinds in MODEL_TYPES.items() if kind in kinds)


def unread(description: Mapping[str, Any]) -> str | None:
    """Say why no family reads a checkpoint, if that is known by its name; else None.

    Args:
        description: content of its config.json.
    """
    kind = description.get("model_type")
    if not isinstance(kind, str) or kind not in UNREAD:
        return None
    return f"model_type '{kind}', which no family reads: {UNREAD[kind]}"


def sees(description: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint has a vision tower."""
    return any(key in description for key in SEES)


def other_head(description: Mapping[str, Any]) -> str | None:
    """Return the class of a checkpoint without a vision tower that writes no text; None if it may write."""
    found = description.get("architectures")
    names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    told = [name for name in names if "For" in name or any(one in name for one in WRITERS)]
    if description.get("is_encoder_decoder") is True:
        return told[0] if told else "an encoder and a decoder"
    writes = not told or any(one in name for name in told for one in WRITERS)
    return None if writes else told[0]


def family_of(description: Mapping[str, Any]) -> str | None:
    """Return the one family that reads a checkpoint; None if none does, or nothing tells.

    Args:
        description: content of its config.json.
    """
    if fitting := fitting_families(description):
        return fitting[0]
    known = isinstance(description.get("model_type"), str) and unread(description) is None
    return LANGUAGE_MODEL if known and not sees(description) and other_head(description) is None else None


def all_kinds() -> str:
    """Return what each family reads, for a message."""
    kinds = (
        f"{family} ({', '.join(kinds) or 'decoders without a vision tower'})"
        for family, kinds in MODEL_TYPES.items()
    )
    return "; ".join(kinds)


def family_problem(family: str, description: Mapping[str, Any], folder: str) -> str | None:
    """Say why a family does not read a checkpoint, and which one does; None if nothing speaks against it.

    Args:
        family: the family that the configuration names.
        description: content of the checkpoint's config.json.
        folder: where it lies.
    """
    if problem := unread(description):
        return f"{folder} has {problem}"
    kind, wanted, fitting = kind_of(description), MODEL_TYPES[family], fitting_families(description)
    if wanted and kind not in wanted:
        advice = "use family 'causal_lm' if it has no images"
        if fitting or sees(description):
            advice = f"use family {' or '.join(fitting)}" if fitting else f"families read: {all_kinds()}"
        return (
            f"'{family}' reads checkpoints of model_type {' or '.join(wanted)}, but {folder} has '{kind}'; "
            f"{advice}"
        )
    if not wanted and (fitting or sees(description)):
        return (
            f"{folder} has model_type '{kind}', which sees images and is not family '{family}'; use "
            f"{' or '.join(fitting) or 'another checkpoint'} (with text_only: true for its language model "
            "alone)"
        )
    if not wanted and (head := other_head(description)):
        return (
            f"{folder} is '{head}', which writes no text, but family '{family}' reads decoders "
            "(…ForCausalLM); name such a checkpoint"
        )
    return layout_problem(family, description)


def layout_problem(family: str, description: Mapping[str, Any]) -> str | None:
    """Say which part of a checkpoint its family does not read; None if it reads all that are told."""
    if family == LLAVA_ORIGINAL:
        for key, allowed in ORIGINAL_PARTS.items():
            if description.get(key, allowed[0]) not in allowed:
                return (
                    f"its config.json has {key} = {description[key]!r}, but family '{family}' reads "
                    f"{' or '.join(map(repr, allowed))}; use another checkpoint"
                )
    return None


def attention_problem(family: str, attention: str) -> str | None:
    """Say why a family cannot run with an implementation of attention; None if it can."""
    if family not in BOTH_WAYS or not attention.startswith("flash"):
        return None
    # Flash attention takes no masks but causal ones: all would be read from left to right.
    return (
        f"attention: found '{attention}' with family '{family}', which cannot let {BOTH_WAYS[family]} see "
        f"itself as a whole; set {UNFLASHED[family]}"
    )


def tiles_problem(family: str, text_only: bool) -> str | None:
    """Say why `tiles: true` means nothing for a model; None if its pictures can be cut."""
    if family not in TILED:
        return (
            f"tiles: found true with family '{family}', expected it with {' or '.join(TILED)} alone: other "
            "families show a picture as a whole; leave it out"
        )
    if text_only:
        return "tiles: found true with text_only: true, which shows no pictures; leave one of them out"
    return None

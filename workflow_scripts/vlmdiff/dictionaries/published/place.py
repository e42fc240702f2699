"""Where in the model a published dictionary was trained: every spelling of a block's output is one number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vlmdiff.dictionaries.weights import DictionaryError

NAMES = (
    "hook_name", "hook_point", "hook_point_in", "hf_hook_name", "hf_hook_point_in", "hookpoint", "act_name",
    "submodule_name", "hook", "hook_name_out", "hook_point_out", "hf_hook_name_out", "hf_hook_point_out",
)  # fmt: skip
NUMBERS = ("hook_layer", "hook_point_layer", "hook_layer_out", "layer")
HEADS = ("hook_head_index", "hook_point_head_index", "hook_head_index_out")

# Modules above a decoder's blocks; blocks of a vision tower have others.
ABOVE = "base_model|model|language_model|text_model|transformer|gpt_neox|decoder"
AFTER = re.compile(
    r"blocks\.(\d+)\.hook_(?:resid_post|out)"
    rf"|(?:(?:{ABOVE})\.)*(?:layers|h|blocks)\.(\d+)(?:\.output)?"
    r"|resid_post_layer_(\d+)"
)
BEFORE = re.compile(
    rf"blocks\.(\d+)\.hook_(?:resid_pre|in)|(?:(?:{ABOVE})\.)*(?:layers|h)\.(\d+)\.input|resid_pre_layer_(\d+)"
)
KNOWN = (
    "blocks.N.hook_resid_post, blocks.(N+1).hook_resid_pre, model.layers.N, layers.N, transformer.h.N, "
    "gpt_neox.layers.N, resid_post_layer_N"
)
# In paths: a hook, `layer_12`, Llama Scope's `L12R-8x` or `L12`, and parts of a block that are none.
SPELLED = re.compile(r"(?:\w+\.)*(?:blocks|layers|h)\.\d+(?:\..+)?|resid_(?:post|pre)_layer_\d+")
LAYER = re.compile(r"(?<![A-Za-z])layer[_-]?(\d+)", re.IGNORECASE)
SCOPE = re.compile(r"(?<![A-Za-z0-9])L(\d+)(R|M|A|TC)(?![A-Za-z])|^L(\d+)$", re.IGNORECASE)
OTHER = re.compile(
    r"(?:.+-)?(?:mlp|att|attn|transcoders?|clt)(?:_out)?(?:_all)?|resid_mid|embedding|.*-LX(?:M|A|TC)-.*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """What files and paths tell of the place in the model, by the key or path that tells it.

    Attributes:
        names: hook points or modules.
        numbers: layers without a name; where there is a name, the number in it.
        heads: heads of attention.
        other: path that names another part of a block.
    """

    names: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)

    def __or__(self, more: Place) -> Place:
        """Put together what two sources tell."""
        return Place(
            self.names | more.names,
            self.numbers | more.numbers,
            self.heads | more.heads,
            self.other | more.other,
        )


def block_after(name: str) -> int | None:
    """Return the block whose output a name stands for, -1 for the embeddings; None for any other place."""
    if match := AFTER.fullmatch(name):
        return int(next(filter(None, match.groups())))
    if match := BEFORE.fullmatch(name):
        return int(next(filter(None, match.groups()))) - 1
    return None


def place_in(config: Mapping[str, Any], path: Any, prefix: str = "") -> Place:
    """Return what a published configuration tells; keys that are null or empty tell nothing.

    Raises:
        DictionaryError: a name is no text, or a layer no whole number.
    """
    told = {key: config[key] for key in (*NAMES, *NUMBERS, *HEADS) if config.get(key) not in (None, "")}
    for key, value in told.items():
        expected = str if key in NAMES else int
        if key not in HEADS and (not isinstance(value, expected) or isinstance(value, bool)):
            raise DictionaryError(
                f"{path}: {prefix}{key} is {value!r}, expected {'text' if expected is str else 'a layer'}. "
                "It tells the place in the model; correct it, or download the file again"
            )

    def chosen(keys: tuple[str, ...]) -> dict[str, Any]:
        return {f"{prefix}{key}": told[key] for key in keys if key in told}

    return Place(chosen(NAMES), chosen(NUMBERS), chosen(HEADS))


def place_in_path(file: str) -> Place:
    """Return what the path of a dictionary within its source tells."""
    found = Place()
    for part in PurePosixPath(file).parts:
        part = re.sub(r"\.(?:pt|npz|safetensors)$", "", part)
        key = f"the path '{file}'"
        if SPELLED.fullmatch(part):
            found |= Place(names={key: part})
        elif match := LAYER.search(part):
            found |= Place(numbers={key: int(match[1])})
        elif match := SCOPE.search(part):
            found |= Place(numbers={key: int(match[1] or match[3])})
            if (match[2] or "R").upper() != "R":
                found |= Place(other={key: part})
        elif OTHER.fullmatch(part):
            found |= Place(other={key: part})
    return found


def problems(place: Place, layer: int) -> Iterator[str]:
    """Yield what speaks against the residual stream after a block."""
    for key, value in place.heads.items():
        yield f"{key} is {value!r}: it acts on one head of attention, not on a residual stream"
    for key, name in place.names.items():
        found = block_after(name)
        if found is None:
            yield (
                f"{key} is '{name}', which is not known as the output of a block; known are {KNOWN}. A "
                "dictionary of another place (attention, MLP, inside a block) does not fit"
            )
        elif found != layer:
            where = f"after block {found}" if found >= 0 else "before all blocks"
            yield (
                f"{key}: was trained at {name}, expected blocks.{layer}.hook_resid_post; the former is the "
                f"residual stream {where}"
            )
    numbered = {int(number) for name in place.names.values() for number in re.findall(r"\d+", name)[:1]}
    for key, number in place.numbers.items():
        if number not in (numbered or {layer}):
            expected = sorted(numbered) if numbered else layer
            yield f"{key} tells layer {number}, expected {expected}"
    for key, part in place.other.items():
        yield f"{key} names another part of a block ('{part}'), not the residual stream after it"


def check_place(place: Place, path: Any, layer: int) -> None:
    """Refuse a dictionary of another place than the residual stream after a block, or of an unknown one.

    What tells no place at all is not refused.

    Raises:
        DictionaryError: saying what tells which place.
    """
    for problem in problems(place, layer):
        raise DictionaryError(
            f"{path}: {problem}. It would be imported as layer {layer}; correct `file`, `by_layer` or "
            "`layers` in the config"
        )

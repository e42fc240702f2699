"""Gemma Scope 2: `resid_post_all/layer_{l}_width_{w}_l0_{size}/params.safetensors`, maybe config.json."""

from __future__ import annotations

from pathlib import Path

from vlmdiff.dictionaries.published.content import (
    NAMES,
    Found,
    check_kind_by_names,
    chosen_scale,
    needed,
    read_json,
    read_safetensors,
    widened,
)
from vlmdiff.dictionaries.published.place import Place, place_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

CONFIG, WEIGHTS = "config.json", "params.safetensors"
# What only transcoders have beside the weights.
SKIP = "affine_skip_connection"


def read(source: PublishedSource) -> Found:
    """Read one layer's folder: JumpReLU on the raw residual stream, `b_dec` not subtracted.

    Raises:
        DictionaryError: a file is missing or damaged, or holds no dictionary of one residual stream.
    """
    folder = Path(source.path)
    file, config = folder / WEIGHTS, folder / CONFIG
    tensors = {name.replace("w_", "W_"): value for name, value in read_safetensors(file).items()}
    if SKIP in tensors:
        raise DictionaryError(f"{file}: holds {SKIP}: a transcoder, not a dictionary")
    check_kind_by_names(tensors, ("threshold",), file)
    needed(tensors, (*NAMES, "threshold"), file)
    weights = widened({name: tensors[name] for name in (*NAMES, "threshold")}, file)
    # Activations pass a ReLU too, so that a negative threshold acts as zero does.
    weights["threshold"].clamp_(min=0)
    told = read_json(config) if config.is_file() else {}
    if (kind := told.get("architecture", "jump_relu")) != "jump_relu":
        raise DictionaryError(f"{config}: architecture is {kind!r}, expected 'jump_relu'")
    model = told.get("model_name")
    return Found(
        weights,
        None,
        False,
        chosen_scale(None, source.input_scale, file),
        place=place_in(told, config) if told else Place(),
        model=model if isinstance(model, str) else None,
    )

"""EleutherAI's sparsify, and multimodal-sae: a folder a hook point with `cfg.json` and `sae.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmdiff.dictionaries.published.content import (
    Found,
    check_sizes,
    chosen_scale,
    count,
    flag,
    needed,
    of_linear_layers,
    read_json,
    read_safetensors,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
SKIP = "W_skip"
# What has no equal here, by the key that says so.
OTHERS = {
    "transcode": "a transcoder, which writes another place than it reads",
    "skip_connection": "it has a linear connection beside its features",
    "signed": "it chooses features by magnitude, negative ones too",
}


def read(source: PublishedSource) -> Found:
    """Read one hook point's folder: TopK after ReLU on the raw residual stream, `b_dec` subtracted.

    Whether its rows were kept at unit norm (`normalize_decoder`) and how its loss was made (`multi_topk`)
    changes nothing in how it is read.

    Raises:
        DictionaryError: a file is missing or damaged, or holds no autoencoder with TopK.
    """
    folder = Path(source.path)
    path, file = folder / CONFIG, folder / WEIGHTS
    config = read_json(path)
    check_kind(config, path)
    tensors = of_linear_layers(read_safetensors(file))
    if unknown := sorted(set(tensors) - {*NAMES.values()}):
        what = ": a transcoder, not a dictionary" if SKIP in unknown else f". {remedy()}"
        raise DictionaryError(f"{file}: holds {unknown[:4]}, which a dictionary does not have{what}")
    needed(tensors, tuple(NAMES.values()), file)
    weights = widened({name: tensors[told] for name, told in NAMES.items()}, file)
    check_sizes(with_number(config, path), {"d_in": "d_model", "num_latents": "d_sae"}, weights, path)
    return Found(
        weights,
        count(config["k"], "k", path, weights["b_enc"].numel()),
        True,
        chosen_scale(None, source.input_scale, path),
        place=place_in(config, path),
    )


def check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not an autoencoder with TopK.

    Raises:
        DictionaryError: saying why.
    """
    needed(config, ("d_in", "k"), path)
    for key, what in OTHERS.items():
        if flag(config, key, False, path):
            raise DictionaryError(f"{path}: {key} is true: {what}; that has no equal here")
    if (activation := config.get("activation", "topk")) != "topk":
        raise DictionaryError(
            f"{path}: activation is {activation!r}, expected 'topk': no other has an equal here"
        )


def with_number(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a configuration with the number of features that it tells.

    Zero, or none, stands for the width times its expansion factor; without that the tensors alone tell it.

    Raises:
        DictionaryError: a size is no whole number.
    """
    if config.get("num_latents"):
        return dict(config)
    told = {key: value for key, value in config.items() if key != "num_latents"}
    if "expansion_factor" in config:
        sizes = [count(config[key], key, path) for key in ("d_in", "expansion_factor")]
        told["num_latents"] = math.prod(sizes)
    return told

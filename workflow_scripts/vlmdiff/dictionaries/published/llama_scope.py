"""Llama Scope (arXiv 2410.20526): `hyperparams.json` and `checkpoints/final.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    Found,
    check_sizes,
    chosen_scale,
    count,
    filled,
    flag,
    needed,
    number,
    of_linear_layers,
    read_json,
    read_safetensors,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
NORMS = "dataset_average_activation_norm"
ACTIVATIONS = ("jumprelu", "topk", "relu")
# Names of the tensors, whose matrices lie as linear layers have them.
NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
    "b_dec": "decoder.bias",
}


def read(source: PublishedSource) -> Found:
    """Read one layer's folder.

    The threshold is published in units of the raw residual stream; here it is scaled with the input.

    Raises:
        DictionaryError: a file is missing or damaged, or the dictionary is of a kind that has no
            equal here (a transcoder, a gated encoder, a scale that differs from token to token).
    """
    folder = Path(source.path)
    path, file = folder / CONFIG, folder / WEIGHTS
    config = read_json(path)
    needed(config, ("d_model", "d_sae"), path)
    for key in ("d_model", "d_sae"):
        count(config[key], key, path)
    check_kind(config, path)
    check_factor(config, path)
    scale = input_scale(config, source, path)
    weights = tensors_of(config, of_linear_layers(read_safetensors(file)), NAMES, file)
    check_sizes(config, {"d_model": "d_model", "d_sae": "d_sae"}, weights, path)
    k = None
    if config.get("act_fn") == "topk":
        needed(config, ("top_k",), path)
        k = count(config["top_k"], "top_k", path, config["d_sae"])
    else:
        weights["threshold"] = filled(threshold_of(config, path) * scale, weights["b_enc"])
    return Found(
        weights,
        k,
        flag(config, "apply_decoder_bias_to_pre_encoder", False, path),
        scale,
        flag(config, "sparsity_include_decoder_norm", False, path),
        place_in(config, path),
        tells_norm=norm_mode(config) == "dataset-wise" and bool(config.get(NORMS)),
    )


def tensors_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], names: Mapping[str, str], file: Path
) -> dict[str, Tensor]:
    """Return the weights in float32, the decoder's bias zero where there is none.

    Args:
        config: as published.
        tensors: of the file, matrices upright.
        names: what the file calls each weight.
        file: for messages.

    Raises:
        DictionaryError: a tensor is missing or wrong, or the configuration tells another bias than the file.
    """
    bias = names["b_dec"]
    biased = flag(config, "use_decoder_bias", bias in tensors, file)
    needed(tensors, tuple(name for name in names.values() if biased or name != bias), file)
    weights = {name: tensors[told] for name, told in names.items() if told in tensors}
    if bias not in tensors:
        weights["b_dec"] = torch.zeros(weights["W_dec"].shape[1:])
    elif not biased and bool((weights["b_dec"] != 0).any()):
        raise DictionaryError(f"{file}: holds a {bias}, but use_decoder_bias is false. {remedy()}")
    return widened(weights, file)


def threshold_of(config: Mapping[str, Any], path: Path) -> float:
    """Return the threshold of all features, in units of the raw residual stream; 0 for ReLU.

    Raises:
        DictionaryError: it is missing or no number.
    """
    if config.get("act_fn", "jumprelu") == "relu":
        return 0.0
    needed(config, ("jump_relu_threshold",), path)
    # A ReLU comes first, so that a negative threshold acts as zero does.
    return max(0.0, number(config["jump_relu_threshold"], "jump_relu_threshold", path))


def check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not a dictionary of one residual stream.

    Raises:
        DictionaryError: saying why.
    """
    activation = config.get("act_fn", "jumprelu")
    if activation not in ACTIVATIONS:
        raise DictionaryError(f"{path}: act_fn is '{activation}'; known are {list(ACTIVATIONS)}")
    if flag(config, "use_glu_encoder", False, path):
        raise DictionaryError(f"{path}: use_glu_encoder is true; a gated encoder has no equal here")
    place = config.get("hook_point_in")
    if config.get("hook_point_out", place) != place:
        raise DictionaryError(
            f"{path}: reads {place} and writes {config['hook_point_out']}: a transcoder, not a dictionary"
        )


def check_factor(config: Mapping[str, Any], path: Path) -> None:
    """Refuse an expansion that contradicts the sizes.

    Raises:
        DictionaryError: naming both.
    """
    factor = config.get("expansion_factor")
    if factor is not None and number(factor, "expansion_factor", path) * config["d_model"] != config["d_sae"]:
        raise DictionaryError(
            f"{path}: expansion_factor is {factor!r}, but d_sae / d_model = {config['d_sae']} / "
            f"{config['d_model']}. {remedy()}"
        )


def norm_mode(config: Mapping[str, Any]) -> Any:
    """Return how activations are scaled: by an average over data, or as they are."""
    return config.get("norm_activation", "dataset-wise" if config.get(NORMS) else "inference")


def input_scale(config: Mapping[str, Any], source: PublishedSource, path: Path) -> float:
    """Return the factor `sqrt(d_model) / average norm` that brings residuals to the trained units.

    Raises:
        DictionaryError: the normalisation differs from token to token, or the average is missing.
    """
    norms, mode = config.get(NORMS) or {}, norm_mode(config)
    if mode == "inference":
        told = 1.0 if "norm_activation" in config else None
        return chosen_scale(told, source.input_scale, path)
    if mode != "dataset-wise":
        raise DictionaryError(
            f"{path}: norm_activation is '{mode}': its scale differs from token to token and does not fold "
            "into weights; expected 'dataset-wise' or 'inference'"
        )
    if not norms and source.input_scale is not None:
        return source.input_scale
    average = norms.get("in") if isinstance(norms, dict) else None
    if (
        type(average) not in (int, float)
        or not 0 < average < math.inf
        or norms.get("out", average) != average
    ):
        raise DictionaryError(
            f"{path}: dataset_average_activation_norm is {norms}, expected one positive `in`, equal to `out`"
        )
    return chosen_scale(math.sqrt(config["d_model"]) / average, source.input_scale, path)

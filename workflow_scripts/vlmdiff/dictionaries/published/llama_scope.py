"""Llama Scope (arXiv 2410.20526): `hyperparams.json` and `checkpoints/final.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlmdiff.dictionaries.published.content import (
    Found,
    count,
    filled,
    flag,
    needed,
    number,
    read_json,
    read_safetensors,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
ACTIVATIONS = ("jumprelu", "topk", "relu")


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
    shape = (count(config["d_model"], "d_model", path), count(config["d_sae"], "d_sae", path))
    check_kind(config, path)
    scale = input_scale(config, source, path)
    tensors = read_safetensors(file)
    needed(tensors, ("encoder.weight", "encoder.bias", "decoder.weight"), file)
    weights = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors.get("decoder.bias", torch.zeros(tensors["decoder.weight"].shape[:1])),
    }
    k, threshold, activation = None, 0.0, config.get("act_fn", "jumprelu")
    if activation == "topk":
        needed(config, ("top_k",), path)
        k = count(config["top_k"], "top_k", path, config["d_sae"])
    else:
        needed(config, ("jump_relu_threshold",) if activation == "jumprelu" else (), path)
        if activation == "jumprelu":
            threshold = number(config["jump_relu_threshold"], "jump_relu_threshold", path) * scale
    weights = widened(weights, file)
    if k is None:
        weights["threshold"] = filled(max(threshold, 0.0), weights["b_enc"])
    if tuple(weights["W_enc"].shape) != shape:
        raise DictionaryError(
            f"{file}: encoder of d_model, d_sae = {tuple(weights['W_enc'].shape)}, {CONFIG} asks for "
            f"{shape}. {remedy()}"
        )
    return Found(
        weights,
        k,
        flag(config, "apply_decoder_bias_to_pre_encoder", False, path),
        scale,
        flag(config, "sparsity_include_decoder_norm", False, path),
        place_in(config, path),
    )


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


def input_scale(config: Mapping[str, Any], source: PublishedSource, path: Path) -> float:
    """Return the factor `sqrt(d_model) / average norm` that brings residuals to the trained units.

    Raises:
        DictionaryError: the normalisation differs from token to token, or the average is missing.
    """
    if source.input_scale is not None:
        return source.input_scale
    norms = config.get("dataset_average_activation_norm") or {}
    mode = config.get("norm_activation", "dataset-wise" if norms else "inference")
    if mode == "inference":
        return 1.0
    if mode != "dataset-wise":
        raise DictionaryError(
            f"{path}: norm_activation is '{mode}': its scale differs from token to token and does not fold "
            "into weights; expected 'dataset-wise' or 'inference'"
        )
    average = norms.get("in") if isinstance(norms, dict) else None
    if (
        type(average) not in (int, float)
        or not 0 < average < math.inf
        or norms.get("out", average) != average
    ):
        raise DictionaryError(
            f"{path}: dataset_average_activation_norm is {norms}, expected one positive `in`, equal to `out`"
        )
    return math.sqrt(config["d_model"]) / average

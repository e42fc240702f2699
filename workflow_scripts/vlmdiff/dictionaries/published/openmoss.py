"""OpenMOSS's lm-saes and llamascopium (Llama Scope 2): `config.json` and `sae_weights.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    FLOATS,
    Found,
    check_sizes,
    count,
    filled,
    flag,
    needed,
    number,
    read_json,
    read_safetensors,
    remedy,
)
from vlmdiff.dictionaries.published.llama_scope import (
    NORMS,
    check_kind,
    input_scale,
    norm_mode,
    tensors_of,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import LARGEST, DictionaryError

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
NAMES = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
THRESHOLD = "activation_function.log_jumprelu_threshold"


def read(source: PublishedSource) -> Found:
    """Read one layer's folder.

    What is compared with a threshold is the pre-activation of the scaled input, times the norm of the decoder
    row if `sparsity_include_decoder_norm` says so.

    Raises:
        DictionaryError: a file is missing or damaged, or the dictionary is of a kind that has no equal here
            (a transcoder, a crosscoder, a gated encoder, a scale that differs from token to token, a choice
            by batches without a threshold).
    """
    folder = Path(source.path)
    path, file = folder / CONFIG, folder / WEIGHTS
    # The library's own default.
    config = {"norm_activation": "dataset-wise"} | read_json(path)
    check_type(config, path)
    tensors = read_safetensors(file)
    check_names(tensors, file)
    config |= {NORMS: norms_in(config, tensors, file)}
    scale = input_scale(config, source, path)
    weights = tensors_of(config, tensors, NAMES, file)
    d_sae = int(min(config["d_model"] * config["expansion_factor"], LARGEST))
    check_sizes(config | {"d_sae": d_sae}, {"d_model": "d_model", "d_sae": "d_sae"}, weights, path)
    k = None
    if config["act_fn"] == "topk":
        needed(config, ("top_k",), path)
        k = count(config["top_k"], "top_k", path, d_sae)
    elif config["act_fn"] == "jumprelu":
        needed(tensors, (THRESHOLD,), file)
        weights["threshold"] = thresholds(tensors[THRESHOLD], weights["b_enc"], file)
    else:
        weights["threshold"] = filled(0.0, weights["b_enc"])
    return Found(
        weights,
        k,
        flag(config, "apply_decoder_bias_to_pre_encoder", False, path),
        scale,
        flag(config, "sparsity_include_decoder_norm", True, path),
        place_in(config, path),
        tells_norm=norm_mode(config) == "dataset-wise" and bool(config[NORMS]),
    )


def check_type(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not a dictionary of one residual stream.

    Raises:
        DictionaryError: saying why.
    """
    needed(config, ("d_model", "expansion_factor", "act_fn"), path)
    if (kind := config.get("sae_type", "sae")) != "sae":
        raise DictionaryError(f"{path}: sae_type is {kind!r}, expected 'sae': only that has an equal here")
    count(config["d_model"], "d_model", path)
    number(config["expansion_factor"], "expansion_factor", path, positive=True)
    if config["act_fn"] == "batchtopk":
        raise DictionaryError(
            f"{path}: act_fn is 'batchtopk', which chooses among all tokens of a batch, and no file tells "
            "the threshold that stands for that choice where single tokens are encoded; convert it to "
            "'jumprelu', with the threshold that its training reached"
        )
    check_kind(config, path)


def check_names(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse tensors of another kind of model.

    Raises:
        DictionaryError: naming them.
    """
    known = {*NAMES.values(), THRESHOLD}
    if unknown := sorted(name for name in tensors if name not in known and not name.startswith(f"{NORMS}.")):
        raise DictionaryError(f"{file}: holds {unknown[:4]}, which a dictionary does not have. {remedy()}")


def norms_in(config: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> dict[str, float]:
    """Return the average norms, which the weights' file holds by hook point, as `in` and `out`.

    A file whose activations are not scaled has arbitrary numbers there.

    Raises:
        DictionaryError: one is no single number.
    """
    found = {}
    for side in ("in", "out"):
        told = tensors.get(f"{NORMS}.{config.get(f'hook_point_{side}')}")
        if told is None or norm_mode(config) == "inference":
            continue
        if told.numel() != 1:
            raise DictionaryError(f"{file}: {NORMS} has shape {tuple(told.shape)}, expected one number")
        found[side] = float(told)
    return found


def thresholds(logarithm: Tensor, like: Tensor, file: Path) -> Tensor:
    """Return the thresholds of which a file holds the logarithms.

    Raises:
        DictionaryError: there are not as many as features, or they are not finite.
    """
    known = logarithm.dtype in FLOATS and logarithm.shape == like.shape
    # A logarithm may be minus infinity: a threshold of zero.
    if not known or not bool(logarithm.float().exp().isfinite().all()):
        raise DictionaryError(
            f"{file}: {THRESHOLD} is {logarithm.dtype} of shape {tuple(logarithm.shape)}, or its "
            f"exponentials are not finite; expected {tuple(like.shape)} numbers. {remedy()}"
        )
    return logarithm.float().exp()

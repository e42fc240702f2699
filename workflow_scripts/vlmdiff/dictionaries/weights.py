"""A dictionary's weights as arrays: read and checked without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from vlmdiff.runtime.disk_errors import not_read

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
ARCHITECTURES = ("topk", "jumprelu")
# Thresholds of which some are negative: SAELens, which applies a ReLU first, must not take them.
SIGNED = "signed_threshold"
# More features, or dimensions, than any dictionary has.
LARGEST = 2**31 - 1
LONGEST = 2000  # characters of a message
# What safetensors raises for a file that is damaged or of another kind.
UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError)


class DictionaryError(ValueError):
    """A dictionary's folder cannot be used; the message says why and what to do."""

    def __init__(self, message: str) -> None:
        """Keep beginning and end of a message into which a damaged file brought a very long value."""
        super().__init__(message if len(message) <= LONGEST else f"{message[:600]} … {message[-300:]}")


def load_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """Read and check a dictionary's weights.

    Returns:
        float32 arrays `W_enc (d_model, d_sae)`, `b_enc (d_sae,)`, `W_dec (d_sae, d_model)`,
        `b_dec (d_model,)`, for JumpReLU `threshold (d_sae,)`, or `signed_threshold` if some are negative, and
        for TopK maybe `divisor (d_sae,)`.

    Raises:
        DictionaryError: a file is missing or unreadable, a shape or type is wrong or a value is not finite.
    """
    from safetensors.numpy import load_file

    config, path = load_config_file(folder), Path(folder) / WEIGHTS
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        absent = DictionaryError(f"{path}: not found, expected a dictionary's weights. {remedy(path)}")
        raise not_read(path, error) or absent from None
    except UNREADABLE as error:
        damaged = DictionaryError(f"{path}: cannot be read ({error}). {remedy(path)}")
        raise not_read(path, error) or damaged from error
    check_weights(weights, config, path)
    return weights


def load_config_file(folder: str | Path) -> dict[str, Any]:
    """Read a dictionary's `cfg.json` and check that its architecture is known.

    Raises:
        DictionaryError: it is missing, is not JSON, lacks a key, names an unknown architecture or holds a
            value that no dictionary can have.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise DictionaryError(f"{path}: not found, expected SAELens' layout. {remedy(path)}") from None
    except (ValueError, RecursionError, OSError) as error:
        damaged = DictionaryError(f"{path}: not valid JSON ({error}). {remedy(path)}")
        raise not_read(path, error) or damaged from error
    if not isinstance(config, dict):
        raise DictionaryError(
            f"{path}: expected a JSON object, found {type(config).__name__}. {remedy(path)}"
        )
    needed = {"architecture", "d_in", "d_sae", "apply_b_dec_to_input"}
    if config.get("architecture") == "topk":
        needed.add("k")
    missing = sorted(needed - set(config))
    if missing:
        raise DictionaryError(f"{path}: keys missing: {missing}. {remedy(path)}")
    if config["architecture"] not in ARCHITECTURES:
        raise DictionaryError(
            f"{path}: unknown architecture {config['architecture']!r}; known are {list(ARCHITECTURES)}"
        )
    check_values(config, path)
    return config


def check_values(config: dict[str, Any], path: Path) -> None:
    """Check the values of a `cfg.json` that has all keys.

    Raises:
        DictionaryError: naming the first key that is wrong, what was found and what is allowed.
    """
    most = {"d_in": LARGEST, "d_sae": LARGEST}
    if config["architecture"] == "topk":
        most["k"] = config["d_sae"]
    for key, largest in most.items():
        if type(config[key]) is not int or not 1 <= config[key] <= largest:
            raise DictionaryError(
                f"{path}: {key} is {config[key]!r}, expected a whole number from 1 to {largest}. "
                f"{remedy(path)}"
            )
    if not isinstance(config["apply_b_dec_to_input"], bool):
        raise DictionaryError(
            f"{path}: apply_b_dec_to_input is {config['apply_b_dec_to_input']!r}, expected true or false. "
            f"{remedy(path)}"
        )
    metadata = config.get("metadata", {})
    if not isinstance(metadata, dict):
        raise DictionaryError(f"{path}: metadata is {metadata!r}, expected an object. {remedy(path)}")
    scale = metadata.get("input_scale")
    if scale is not None and not (type(scale) in (int, float) and 0 < scale < float("inf")):
        raise DictionaryError(
            f"{path}: metadata.input_scale is {scale!r}, expected a positive number. {remedy(path)}"
        )


def check_weights(weights: dict[str, np.ndarray], config: dict[str, Any], path: Path) -> None:
    """Check names, shapes and values of weights against their configuration.

    Raises:
        DictionaryError: naming the first tensor that is wrong.
    """
    d_model, d_sae = config["d_in"], config["d_sae"]
    shapes = {"W_enc": (d_model, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
    if config["architecture"] == "jumprelu":
        shapes[SIGNED if SIGNED in weights else "threshold"] = (d_sae,)
    elif "divisor" in weights:
        shapes["divisor"] = (d_sae,)
    if set(weights) != set(shapes):
        raise DictionaryError(
            f"{path}: found tensors {sorted(weights)}, expected {sorted(shapes)}. {remedy(path)}"
        )
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise DictionaryError(
                f"{path}: {name} has shape {weights[name].shape}, cfg.json asks for {shape}. {remedy(path)}"
            )
        if weights[name].dtype != np.float32:
            raise DictionaryError(
                f"{path}: {name} is {weights[name].dtype}, expected float32. {remedy(path)}"
            )
        if not np.isfinite(weights[name]).all():
            raise DictionaryError(f"{path}: {name} holds NaN or infinite values. {remedy(path)}")
    if "threshold" in shapes and (weights["threshold"] < 0).any():
        raise DictionaryError(f"{path}: threshold holds negative values. {remedy(path)}")
    if "divisor" in shapes and (weights["divisor"] <= 0).any():
        raise DictionaryError(f"{path}: divisor holds values that are not positive. {remedy(path)}")


def remedy(path: Path) -> str:
    """Say how a dictionary comes about again."""
    return f"Remake it: delete the folder {path.parent.name} and run snakemake again."

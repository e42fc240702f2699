"""Dictionaries on disk, in SAELens' layout: `sae_weights.safetensors` and `cfg.json`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vlmdiff.dictionaries.source import RELEASE, PublishedSource
from vlmdiff.dictionaries.weights import (
    CONFIG,
    SIGNED,
    WEIGHTS,
    DictionaryError,
    load_config_file,
    load_weights,
)
from vlmdiff.runtime.files import replacing

if TYPE_CHECKING:
    from vlmdiff.dictionaries.modules import Dictionary

__all__ = ["DictionaryError", "PublishedSource", "load_dictionary", "load_weights", "save_dictionary"]


def save_dictionary(dictionary: Dictionary, folder: str | Path, provenance: dict[str, Any]) -> None:
    """Write a dictionary so that this project and SAELens (`SAE.load_from_disk`) can read it.

    Args:
        dictionary: in the units of the raw residual stream.
        folder: made if missing.
        provenance: plain values kept under `metadata` in `cfg.json`.

    Raises:
        DictionaryError: a weight is not finite.
    """
    from safetensors.torch import save_file

    weights = tensors(dictionary)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise DictionaryError(
                f"{folder}: {name} holds NaN or infinite values after training; lower the learning rate"
            )
    with replacing(Path(folder) / WEIGHTS) as temporary:
        save_file(weights, temporary)
    with replacing(Path(folder) / CONFIG) as temporary:
        temporary.write_text(
            json.dumps(config_values(dictionary, provenance), indent=2, sort_keys=True) + "\n"
        )


def tensors(dictionary: Dictionary) -> dict[str, Any]:
    """Return a dictionary's weights by the names that are used on disk.

    What SAELens has no equal for, a divisor or negative activations, has a name that it refuses.
    """
    found = {name: getattr(dictionary, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if dictionary.kind == "jumprelu":
        found["threshold" if dictionary.below_zero is None else SIGNED] = dictionary.threshold
    elif dictionary.divisor is not None:
        found["divisor"] = dictionary.divisor
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def config_values(dictionary: Dictionary, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return SAELens' configuration keys (6.x) for a dictionary."""
    values = {
        # The layout's version: without it SAELens takes the file for an older one and drops `metadata`.
        "sae_lens_version": "6.0.0",
        "architecture": dictionary.kind,
        "d_in": dictionary.d_model,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.subtract_decoder_bias,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": provenance,
    }
    if dictionary.kind == "topk":
        values |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    return values


def load_dictionary(source: str | Path | PublishedSource) -> Dictionary:
    """Read a dictionary, whoever wrote it, in units of the raw residual stream.

    Args:
        source: a folder in SAELens' layout, this project's own included; `saelens:RELEASE/ID`; or a
            description of published files (docs/configure/import_dictionary.md).

    Raises:
        DictionaryError: a file is missing or damaged, or describes what has no equal here; the message
            says which and what to do.
    """
    if isinstance(source, (str, Path)):
        if not str(source).startswith(RELEASE) and is_own(source):
            return load_own(source)
        return published().load_published(PublishedSource("saelens", source))
    return published().load_published(source)


def published() -> ModuleType:
    """Return the readers of published files.

    They are imported by name: jobs read this project's own files, and their results do not go
    stale when a reader of somebody else's changes.
    """
    return import_module("vlmdiff.dictionaries.published.convert")


def is_own(folder: str | Path) -> bool:
    """Tell whether a folder is in the conventions of `save_dictionary`; a damaged one is for it to report."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return True
    if not isinstance(config, dict) or not isinstance(config.get("metadata", {}), dict):
        return True
    if "sae_lens_version" not in config:  # which SAELens itself writes under `metadata`
        return False
    plain = {"dtype": "float32", "normalize_activations": "none", "reshape_activations": "none"}
    return (
        "metadata" in config
        and "sae_lens_version" not in config["metadata"]
        and all(config.get(name) == value for name, value in plain.items())
        and not config.get("rescale_acts_by_decoder_norm")
        and config.get("architecture") != "standard"
    )


def load_own(folder: str | Path) -> Dictionary:
    """Read a dictionary that `save_dictionary` wrote.

    Raises:
        DictionaryError: a file is missing or damaged; the message says which and what to do.
    """
    import torch

    from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary

    config, weights = load_config_file(folder), load_weights(folder)
    shape = {
        "d_model": config["d_in"],
        "d_sae": config["d_sae"],
        "subtract_decoder_bias": config["apply_b_dec_to_input"],
    }
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    if config["architecture"] == "topk":
        dictionary = TopKDictionary(k=config["k"], **shape, divisor=state.get("divisor"))
        dictionary.load_state_dict(state)
        return dictionary
    dictionary = JumpReLUDictionary(**shape)
    dictionary.set_threshold(state.pop("threshold") if "threshold" in state else state.pop(SIGNED))
    dictionary.load_state_dict({**dictionary.state_dict(), **state})
    return dictionary

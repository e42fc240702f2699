"""MMDiff (arXiv 2608.09928): a `.pt` file a layer: `W_enc`, `b_enc`, `W_dec`, `b_dec`, maybe `threshold`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmdiff.dictionaries.published.content import FLOATS, NAMES, Found, count, needed, remedy, widened
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.runtime.storage import not_read


def read(source: PublishedSource) -> Found:
    """Read one layer's file: JumpReLU if it holds thresholds, else TopK.

    Raises:
        DictionaryError: the file is missing, damaged or holds other things than tensors, or `k` is
            missing or not wanted.
    """
    path = Path(source.path)
    tensors = tensors_in(read_pickle(path), path)
    needed(tensors, NAMES, path)
    weights = {name: tensors[name] for name in NAMES}
    threshold = threshold_in(tensors)
    if threshold is not None:
        weights["threshold"] = one_each(threshold, weights["b_enc"], path)
    if (threshold is None) != (source.k is not None):
        raise DictionaryError(
            f"{path}: holds thresholds: a JumpReLU dictionary; remove `k` from its entry in the config"
            if source.k is not None
            else f"{path}: holds no thresholds: a TopK dictionary, whose k no file tells; "
            "give `k` in its entry in the config (the paper's is 50)"
        )
    weights = widened(upright(weights, path), path)
    if source.k is not None:
        count(source.k, "`k` in the config", path, weights["b_enc"].numel())
    return Found(
        weights,
        source.k,
        bool(source.subtract_decoder_bias),
        1.0 if source.input_scale is None else source.input_scale,
    )


def read_pickle(path: Path) -> Any:
    """Read a `.pt` file of plain tensors and containers.

    Raises:
        DictionaryError: it is missing, damaged, or would run code.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DictionaryError(f"{path}: not found. {remedy()}") from None
    except pickle.UnpicklingError as error:
        raise DictionaryError(
            f"{path}: damaged, or holds Python objects beside tensors, which are not loaded because they "
            f"could run code ({str(error).splitlines()[0]}). {remedy()}"
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        damaged = DictionaryError(f"{path}: cannot be read ({error}). {remedy()}")
        raise not_read(path, error) or damaged from error


def tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the one mapping that holds `W_enc`, which may lie inside others, as in a checkpoint.

    Raises:
        DictionaryError: there is none, or more than one.
    """
    found, todo, seen = [], [content], set()
    while todo:
        current = todo.pop()
        # A mapping that holds itself would be looked into for ever.
        if isinstance(current, Mapping) and id(current) not in seen:
            seen.add(id(current))
            if isinstance(current.get("W_enc"), Tensor):
                found.append(current)
            else:
                todo.extend(current.values())
    if len(found) != 1:
        names = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise DictionaryError(
            f"{path}: expected one set of tensors with W_enc, found {len(found)} in {names}. {remedy()}"
        )
    return {name: value for name, value in found[0].items() if isinstance(value, Tensor)}


def one_each(threshold: Tensor, like: Tensor, path: Path) -> Tensor:
    """Return a threshold for every feature, none below zero: activations pass a ReLU too.

    Raises:
        DictionaryError: there are neither one nor as many as features.
    """
    if threshold.dtype not in FLOATS or tuple(threshold.shape) not in ((), (1,), tuple(like.shape)):
        raise DictionaryError(
            f"{path}: threshold is {threshold.dtype} of shape {tuple(threshold.shape)}, expected one number "
            f"or {tuple(like.shape)}. {remedy()}"
        )
    return threshold.detach().float().expand_as(like).clamp(min=0)


def threshold_in(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the thresholds, which may be stored as logarithms; None if there are none."""
    if "log_threshold" in tensors and "threshold" not in tensors:
        return tensors["log_threshold"].float().exp()
    return tensors.get("threshold")


def upright(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Transpose matrices stored as linear layers have them, where the biases' lengths tell them apart.

    Raises:
        DictionaryError: a bias is not a vector.
    """
    for name in ("b_enc", "b_dec"):
        if weights[name].dim() != 1:
            raise DictionaryError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, expected a vector. {remedy()}"
            )
    d_sae, d_model = len(weights["b_enc"]), len(weights["b_dec"])
    for name, shape in (("W_enc", (d_model, d_sae)), ("W_dec", (d_sae, d_model))):
        if d_sae != d_model and tuple(weights[name].shape) == shape[::-1]:
            weights[name] = weights[name].T
    return weights

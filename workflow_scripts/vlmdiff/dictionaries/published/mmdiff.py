"""MMDiff (arXiv 2608.09928): a `.pt` file a layer: `W_enc`, `b_enc`, `W_dec`, `b_dec`, maybe `threshold`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vlmdiff.dictionaries.published.content import (
    FLOATS,
    NAMES,
    Found,
    check_kind_by_names,
    chosen_scale,
    count,
    needed,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.runtime.disk_errors import not_read

UNIT = 1e-3  # norms that differ from 1 by less were brought to it


def read(source: PublishedSource) -> Found:
    """Read one layer's file: JumpReLU if it holds thresholds, else TopK.

    Raises:
        DictionaryError: the file is missing, damaged or holds other things than tensors, or `k` is
            missing or not wanted.
    """
    path = Path(source.path)
    content = read_pickle(path)
    tensors = tensors_in(content, path)
    needed(tensors, NAMES, path)
    check_kind_by_names(tensors, ("threshold", "log_threshold"), path)
    weights = {name: tensors[name] for name in NAMES}
    threshold = threshold_in(tensors, path)
    if threshold is not None:
        weights["threshold"] = one_each(threshold, weights["b_enc"], path)
    check_k(source.k, told_k(content), threshold is not None, path)
    weights = widened(upright(weights, path), path)
    check_orientation(weights, path)
    if source.k is not None:
        count(source.k, "`k` in the config", path, weights["b_enc"].numel())
    return Found(
        weights,
        source.k,
        bool(source.subtract_decoder_bias),
        chosen_scale(None, source.input_scale, path),
        place=place_in(content, path),
    )


def told_k(content: Any) -> set[int]:
    """Return the numbers of active features a token that a file tells, as numbers or as tensors."""
    found = [one.get("k") for one in mappings(content)]
    single = [one.item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in found]
    return {one for one in single if type(one) is int}


def check_k(given: int | None, told: set[int], jumprelu: bool, path: Path) -> None:
    """Refuse a `k` that is missing, not wanted, or another than the file's, if that tells one.

    Raises:
        DictionaryError: saying which.
    """
    if jumprelu and given is not None:
        raise DictionaryError(
            f"{path}: holds thresholds: a JumpReLU dictionary; remove `k` from its entry in the config"
        )
    if not jumprelu and given is None:
        raise DictionaryError(
            f"{path}: holds no thresholds: a TopK dictionary, whose k no file tells; "
            "give `k` in its entry in the config (the paper's is 50)"
        )
    if given is not None and not told <= {given}:
        raise DictionaryError(
            f"{path}: the file tells k = {sorted(told)}, `k` in the config is {given}; correct it"
        )


def read_pickle(path: Path) -> Any:
    """Read a `.pt` file of plain tensors and containers.

    Raises:
        DictionaryError: it is missing, damaged, or would run code.
    """
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


def mappings(content: Any) -> list[Mapping[Any, Any]]:
    """Return every mapping in a file's content, which may lie inside others, as in a checkpoint."""
    found, todo, seen = [], [content], set()
    while todo:
        current = todo.pop()
        # A mapping that holds itself would be looked into for ever.
        if isinstance(current, Mapping) and id(current) not in seen:
            seen.add(id(current))
            found.append(current)
            todo.extend(current.values())
    return found


def tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of the one mapping that holds `W_enc`.

    Raises:
        DictionaryError: there is none, or more than one.
    """
    found = [one for one in mappings(content) if isinstance(one.get("W_enc"), Tensor)]
    if len(found) != 1:
        names = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise DictionaryError(
            f"{path}: expected one set of tensors with W_enc, found {len(found)} in {names}. {remedy()}"
        )
    return {name: value for name, value in found[0].items() if isinstance(value, Tensor)}


def one_each(threshold: Tensor, like: Tensor, path: Path) -> Tensor:
    """Return a threshold for every feature.

    One below zero lets negative activations pass, as in the authors' code: `pre * (pre > threshold)`.

    Raises:
        DictionaryError: there are neither one nor as many as features.
    """
    if threshold.dtype not in FLOATS or tuple(threshold.shape) not in ((), (1,), tuple(like.shape)):
        raise DictionaryError(
            f"{path}: threshold is {threshold.dtype} of shape {tuple(threshold.shape)}, expected one number "
            f"or {tuple(like.shape)}. {remedy()}"
        )
    return threshold.detach().float().expand_as(like)


def threshold_in(tensors: Mapping[str, Tensor], path: Path) -> Tensor | None:
    """Return the thresholds, which may be stored as logarithms; None if there are none.

    Raises:
        DictionaryError: both forms are there, and differ.
    """
    plain, logarithm = tensors.get("threshold"), tensors.get("log_threshold")
    if logarithm is None:
        return plain
    found = logarithm.float().exp()
    if plain is not None and not (plain.shape == found.shape and torch.allclose(plain.float(), found)):
        raise DictionaryError(f"{path}: threshold and log_threshold tell different thresholds. {remedy()}")
    return found if plain is None else plain


def check_orientation(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse matrices that look transposed or exchanged, where their shapes cannot tell.

    The encoder's column of a feature points to about where its decoder row does. In square matrices that
    tells columns from rows. Decoder rows, not encoder columns, are trained at unit norm.

    Raises:
        DictionaryError: saying what was found.
    """
    encoder, decoder = weights["W_enc"].T, weights["W_dec"]
    if len(decoder) == decoder.shape[1]:
        as_they_are, transposed = alignment(encoder, decoder), alignment(encoder.T, decoder.T)
        if transposed > as_they_are + 0.1:
            raise DictionaryError(
                f"{path}: d_sae = d_model = {len(decoder)}, and the matrices look transposed: encoder and "
                f"decoder of a feature have a median cosine of {as_they_are:.2f}, transposed "
                f"{transposed:.2f}; save W_enc as (d_model, d_sae) and W_dec as (d_sae, d_model)"
            )
    spreads = [(rows.norm(dim=1) - 1).abs().max() for rows in (encoder, decoder)]
    if spreads[0] < UNIT and spreads[1] > 10 * UNIT:
        raise DictionaryError(
            f"{path}: the columns of W_enc have unit norm and the rows of W_dec do not: the matrices look "
            "exchanged; save W_enc as (d_model, d_sae) and W_dec as (d_sae, d_model)"
        )


def alignment(one: Tensor, other: Tensor) -> float:
    """Return the median cosine of the rows of two matrices."""
    return float(cosine_similarity(one, other, dim=1).median())


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

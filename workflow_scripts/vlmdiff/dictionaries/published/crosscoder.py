"""Crosscoders as arXiv 2504.02922 publishes them: both models' weights in one file, the base model first."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    Found,
    check_kind_by_names,
    needed,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.states import batch_threshold, normalisation, read_state
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
# By which norm of its decoder rows a feature counts, by the number that the file has for it.
SUM_OF_NORMS, JOINT_NORM, NO_NORM = 1, 2, 4


def read(source: PublishedSource) -> Found:
    """Read one layer's file, `.pt` or `.safetensors`: JumpReLU over both residual streams side by side.

    Raises:
        DictionaryError: the file is missing or damaged, of more or fewer than two models, has no threshold
            although it needs one, or counts features by another norm than can be told from it.
    """
    path = Path(source.path)
    tensors = read_state(path)
    if source.input_scale is not None:
        raise DictionaryError(f"{path}: tells its scale itself; remove `input_scale` from the config")
    needed(tensors, TENSORS, path)
    check_kind_by_names(tensors, ("threshold",), path)
    check_models(tensors, path)
    encoder, decoder = (tensors[f"{part}.weight"].float() for part in ("encoder", "decoder"))
    weights = {
        "W_enc": encoder.flatten(0, 1),
        "b_enc": tensors["encoder.bias"].float(),
        "W_dec": decoder.transpose(0, 1).flatten(1),
        "b_dec": tensors["decoder.bias"].float().flatten(),
        "threshold": thresholds(tensors, decoder, path),
    }
    found = normalisation(tensors, tuple(encoder.shape[:2]), path)
    return Found(
        widened(weights if found is None else found.folded(weights), path), None, subtract_decoder_bias=False
    )


def check_models(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse weights of other shapes than those of two models.

    Raises:
        DictionaryError: naming the first that is wrong.
    """
    models, width, count = (*tensors["encoder.weight"].shape, 0, 0, 0)[:3]
    expected = {
        "encoder.weight": (2, width, count),
        "encoder.bias": (count,),
        "decoder.weight": (2, count, width),
        "decoder.bias": (2, width),
    }
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape or models != 2:
            raise DictionaryError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {shape}: the weights of "
                f"two models. {remedy()}"
            )


def thresholds(tensors: dict[str, Tensor], decoder: Tensor, path: Path) -> Tensor:
    """Return the threshold on each feature's activation.

    Raises:
        DictionaryError: a BatchTopK crosscoder has none, or features count by an unknown norm.
    """
    count = decoder.shape[1]
    if not {"threshold", "k"} & set(tensors):
        return torch.zeros(count)
    told = batch_threshold(tensors, path)
    by = int(tensors.get("code_normalization_id", torch.tensor(SUM_OF_NORMS)))
    norms = {
        SUM_OF_NORMS: decoder.norm(dim=2).sum(dim=0),
        JOINT_NORM: decoder.norm(dim=(0, 2)),
        NO_NORM: torch.ones(count),
    }
    if by not in norms:
        raise DictionaryError(
            f"{path}: code_normalization_id is {by}, expected one of {list(norms)} (sum of norms, joint "
            f"norm, none): other files do not tell how features are chosen. {remedy()}"
        )
    # A feature without a decoder never fires.
    return torch.where(norms[by] > 0, told / norms[by].clamp_min(1e-12), torch.finfo(torch.float32).max)

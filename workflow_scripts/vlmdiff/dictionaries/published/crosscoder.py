"""Crosscoders as arXiv 2504.02922 publishes them: both models' weights in one file, the base model first."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    Found,
    needed,
    read_safetensors,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.mmdiff import read_pickle
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
# What training code that was compiled puts before each name.
COMPILED = "_orig_mod."
# By which norm of its decoder rows a feature counts, by the number that the file has for it.
SUM_OF_NORMS, JOINT_NORM, NO_NORM = 1, 2, 4
SAME_SCALE = 1e-3


def read(source: PublishedSource) -> Found:
    """Read one layer's file, `.pt` or `.safetensors`: JumpReLU over both residual streams side by side.

    Raises:
        DictionaryError: the file is missing or damaged, of more or fewer than two models, has no threshold
            although it needs one, or counts features by another norm than can be told from it.
    """
    path = Path(source.path)
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(one, Tensor) for one in content.values()):
        raise DictionaryError(f"{path}: expected tensors by name, as the state of a crosscoder. {remedy()}")
    if source.input_scale is not None:
        raise DictionaryError(f"{path}: tells its scale itself; remove `input_scale` from the config")
    tensors = {name.removeprefix(COMPILED): tensor for name, tensor in content.items()}
    needed(tensors, TENSORS, path)
    check_models(tensors, path)
    encoder, decoder = (tensors[f"{part}.weight"].float() for part in ("encoder", "decoder"))
    scale, mean = normalisation(tensors, path)
    W_enc = encoder.flatten(0, 1) * scale[:, None]
    weights = {
        "W_enc": W_enc,
        "b_enc": tensors["encoder.bias"].float() - mean @ W_enc,
        "W_dec": decoder.transpose(0, 1).flatten(1) / scale,
        "b_dec": tensors["decoder.bias"].float().flatten() / scale + mean,
        "threshold": thresholds(tensors, decoder, path),
    }
    return Found(widened(weights, path), None, subtract_decoder_bias=False)


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


def normalisation(tensors: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """Return by what each dimension of both models is multiplied, and the mean that is taken off before.

    Raises:
        DictionaryError: it does not fit the models, or is not finite.
    """
    width = tensors["encoder.weight"].shape[0] * tensors["encoder.weight"].shape[1]
    mean, spread = (tensors.get(f"activation_{name}") for name in ("mean", "std"))
    if mean is None or spread is None or bool(mean.isnan().all() | spread.isnan().all()):
        return torch.ones(width), torch.zeros(width)
    mean, spread = mean.float().flatten(), spread.float().flatten()
    fits = len(mean) == len(spread) == width and bool((mean.isfinite() & (spread > 0)).all())
    if not fits:
        raise DictionaryError(
            f"{path}: activation_mean and activation_std are not finite numbers for {width} dimensions. "
            f"{remedy()}"
        )
    target = float(tensors.get("target_rms", torch.tensor(1.0)))
    one_scale = target / float(spread.square().sum().sqrt())
    told = float(tensors.get("activation_global_scale", torch.tensor(one_scale)))
    if abs(told - one_scale) <= SAME_SCALE * one_scale:
        return torch.full((width,), told), mean
    # Without a common scale each dimension has its own.
    return 1 / spread, mean


def thresholds(tensors: dict[str, Tensor], decoder: Tensor, path: Path) -> Tensor:
    """Return the threshold on each feature's activation.

    Raises:
        DictionaryError: a BatchTopK crosscoder has none, or features count by an unknown norm.
    """
    count = decoder.shape[1]
    told = tensors.get("threshold")
    if told is None:
        return torch.zeros(count)
    if told.numel() != 1 or not float(told) >= 0:
        raise DictionaryError(
            f"{path}: threshold is {told.flatten().tolist()}, expected one number of at least 0, which "
            "trainings find after their first thousand steps; without it a BatchTopK crosscoder has no "
            f"activations of single tokens. {remedy()}"
        )
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
    return torch.where(
        norms[by] > 0, float(told) / norms[by].clamp_min(1e-12), torch.finfo(torch.float32).max
    )

"""States of the dictionary_learning library and its forks: tensors by name, maybe with a normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlmdiff.dictionaries.published.content import read_safetensors, remedy
from vlmdiff.dictionaries.published.mmdiff import read_pickle
from vlmdiff.dictionaries.weights import DictionaryError

# What training code that was compiled puts before each name.
COMPILED = "_orig_mod."
NORMALISERS = ("activation_mean", "activation_std", "target_rms", "activation_global_scale")
# What those libraries add to a divisor.
EPSILON = 1e-8


@dataclass(frozen=True)
class Normalisation:
    """`y = scale * (x - mean)` goes in, and `x_hat = y_hat / back + mean` comes out.

    Attributes:
        mean, scale, back: one value a dimension; `back` is `scale`, but for the libraries' epsilon.
    """

    mean: Tensor
    scale: Tensor
    back: Tensor

    def folded(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of `x` that do what the given ones do with `y`, `b_dec` not subtracted."""
        W_enc = weights["W_enc"] * self.scale[:, None]
        return {
            **weights,
            "W_enc": W_enc,
            "b_enc": weights["b_enc"] - self.mean @ W_enc,
            "W_dec": weights["W_dec"] / self.back,
            "b_dec": weights["b_dec"] / self.back + self.mean,
        }


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a pickle of tensors and nothing else.

    Raises:
        DictionaryError: it is missing, damaged, or holds other things.
    """
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(one, Tensor) for one in content.values()):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DictionaryError(
            f"{path}: expected tensors by name, as the state of a dictionary, found {found}. {remedy()}"
        )
    return {str(name).removeprefix(COMPILED): tensor for name, tensor in content.items()}


def normalisation(tensors: Mapping[str, Tensor], shape: tuple[int, ...], path: Path) -> Normalisation | None:
    """Return how activations are normalised before they are encoded; None if they are not.

    A common scale, for all dimensions or for those of each model, goes before one for each dimension, which
    is meant where it is left out or 1.

    Args:
        tensors: the whole state.
        shape: of the activations of one token, `(d_model,)` or `(models, d_model)`.
        path: for the message.

    Raises:
        DictionaryError: it does not fit the activations, or is not finite.
    """
    mean, spread = (tensors.get(name) for name in NORMALISERS[:2])
    if mean is None and spread is None:
        return None
    if mean is None or spread is None:
        raise DictionaryError(
            f"{path}: holds one of activation_mean and activation_std, expected both or none. {remedy()}"
        )
    if bool(mean.isnan().all() | spread.isnan().all()):
        return None
    told = tensors.get("activation_global_scale", torch.ones(())).float()
    fits = tuple(mean.shape) == tuple(spread.shape) == shape and told.numel() in (1, math.prod(shape[:-1]))
    if fits:
        mean, spread = mean.float(), spread.float()
        fits = bool(mean.isfinite().all() and spread.isfinite().all() and (spread >= 0).all())
        fits = fits and bool((spread.sum(dim=-1) > 0).all() and (told > 0).all() and told.isfinite().all())
    if not fits:
        raise DictionaryError(
            f"{path}: activation_mean and activation_std are not finite numbers of shape {shape}, or "
            f"activation_global_scale is not positive. {remedy()}"
        )
    if bool((told == 1).all()):
        scale = 1 / (spread + EPSILON)
        return Normalisation(mean.flatten(), scale.flatten(), scale.flatten())
    scale = told.expand(shape[:-1]) if told.numel() == 1 else told.reshape(shape[:-1])
    scale = scale[..., None].expand(shape).flatten()
    return Normalisation(mean.flatten(), scale, scale + EPSILON)


def batch_threshold(tensors: Mapping[str, Tensor], path: Path) -> float:
    """Return the threshold that stands for the choice of a batch where single tokens are encoded.

    Raises:
        DictionaryError: it is missing, or the training did not find it.
    """
    told = tensors.get("threshold", torch.full((), torch.nan))
    if told.numel() != 1 or not 0 <= float(told) < float("inf"):
        raise DictionaryError(
            f"{path}: threshold is {told.flatten().tolist()[:4]}, expected one number of at least 0, which "
            "trainings find after their first thousand steps; without it BatchTopK has no activations of "
            f"single tokens. {remedy()}"
        )
    return float(told)

"""The dictionary_learning library and its forks: a folder with `config.json` and `ae.pt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    Found,
    check_sizes,
    chosen_scale,
    count,
    filled,
    needed,
    of_linear_layers,
    read_json,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.published.states import NORMALISERS, batch_threshold, normalisation, read_state
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

CONFIG, WEIGHTS = "config.json", "ae.pt"
LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
UPRIGHT = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec"}
RELU, TOPK, BATCH, JUMP = "relu", "topk", "batch", "jump"


@dataclass(frozen=True)
class Kind:
    """How a class of the library stores and uses its weights.

    Attributes:
        names: of its tensors, by ours; those of linear layers lie transposed.
        bias: what it calls the decoder's bias.
        subtracts: whether it takes that off the encoder's input.
        activation: what decides which features fire.
    """

    names: Mapping[str, str]
    bias: str
    subtracts: bool
    activation: str


KINDS = {
    "AutoEncoder": Kind(LINEAR, "bias", True, RELU),
    "AutoEncoderNew": Kind(LINEAR, "decoder.bias", False, RELU),
    "AutoEncoderTopK": Kind(LINEAR, "b_dec", True, TOPK),
    "BatchTopKSAE": Kind(LINEAR, "b_dec", True, BATCH),
    "MatryoshkaBatchTopKSAE": Kind(UPRIGHT, "b_dec", True, BATCH),
    "JumpReluAutoEncoder": Kind(UPRIGHT, "b_dec", False, JUMP),
}
# Beside the weights, and what of it decides nothing when single tokens are encoded.
BESIDE = {"k", "threshold", "group_sizes", *NORMALISERS}


def read(source: PublishedSource) -> Found:
    """Read one trainer's folder, on the residual stream as it is: its scale is in its weights already.

    Raises:
        DictionaryError: a file is missing or damaged, or of a class that has no equal here.
    """
    folder = Path(source.path)
    path, file = folder / CONFIG, folder / WEIGHTS
    config = read_json(path)
    trainer = trainer_of(config, path)
    kind = kind_of(trainer, path)
    tensors = of_linear_layers(read_state(file))
    names = {**kind.names, "b_dec": kind.bias}
    needed(tensors, tuple(names.values()), file)
    if unknown := sorted(set(tensors) - {*names.values(), *BESIDE}):
        raise DictionaryError(
            f"{file}: holds {unknown[:4]}, which '{trainer['dict_class']}' does not have; correct "
            f"dict_class in {CONFIG}, or download the file again"
        )
    weights = {name: tensors[told] for name, told in names.items()}
    if kind.activation == JUMP:
        needed(tensors, ("threshold",), file)
        weights["threshold"] = tensors["threshold"]
    weights = widened(weights, file)
    check_sizes(trainer, {"activation_dim": "d_model", "dict_size": "d_sae"}, weights, path)
    if kind.activation in (RELU, BATCH):
        threshold = batch_threshold(tensors, file) if kind.activation == BATCH else 0.0
        weights["threshold"] = filled(threshold, weights["b_enc"])
    elif kind.activation == JUMP:
        # A ReLU comes last, so that a negative threshold acts as zero does.
        weights["threshold"].clamp_(min=0)
    weights, subtracts = normalised(weights, tensors, kind.subtracts, file)
    model = trainer.get("lm_name")
    return Found(
        weights,
        k_of(trainer, tensors, weights["b_enc"].numel(), path) if kind.activation == TOPK else None,
        subtracts,
        chosen_scale(None, source.input_scale, path),
        place=place_in(config, path),
        model=model if isinstance(model, str) else None,
    )


def trainer_of(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the part of a configuration that describes the dictionary.

    Raises:
        DictionaryError: there is none.
    """
    needed(config, ("trainer",), path)
    if not isinstance(config["trainer"], Mapping):
        raise DictionaryError(f"{path}: trainer is {config['trainer']!r}, expected an object. {remedy()}")
    needed(config["trainer"], ("dict_class",), path)
    return config["trainer"]


def kind_of(trainer: Mapping[str, Any], path: Path) -> Kind:
    """Return how a dictionary's class is read.

    Raises:
        DictionaryError: it has no equal here.
    """
    name = trainer["dict_class"]
    if isinstance(name, str) and name in KINDS:
        return KINDS[name]
    if "crosscoder" in str(name).lower():
        raise DictionaryError(
            f"{path}: dict_class is '{name}': a crosscoder; give `format: crosscoder`, `base_model`, and "
            f"{WEIGHTS} itself as `file`"
        )
    raise DictionaryError(f"{path}: dict_class is {name!r}, which has no equal here; known are {list(KINDS)}")


def normalised(
    weights: dict[str, Tensor], tensors: Mapping[str, Tensor], subtracts: bool, file: Path
) -> tuple[dict[str, Tensor], bool]:
    """Fold the normalisation of activations that forks store into the weights, if there is one.

    Returns:
        the weights, and whether `b_dec` is subtracted.

    Raises:
        DictionaryError: it does not fit.
    """
    found = normalisation(tensors, tuple(weights["b_dec"].shape), file)
    if found is None:
        return weights, subtracts
    if subtracts:
        weights = weights | {"b_enc": weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]}
    return widened(found.folded(weights), file), False


def k_of(trainer: Mapping[str, Any], tensors: Mapping[str, Tensor], features: int, path: Path) -> int:
    """Return the active features a token, told by the configuration, the state or both.

    Raises:
        DictionaryError: neither tells, they differ, or it is no number from 1 to that of the features.
    """
    told = [trainer["k"]] if "k" in trainer else []
    if "k" in tensors and tensors["k"].numel() == 1:
        told.append(int(tensors["k"]))
    if not told or told[0] != told[-1]:
        raise DictionaryError(
            f"{path}: trainer.k and k in {WEIGHTS} tell {told}, expected one number. {remedy()}"
        )
    return count(told[0], "k", path, features)

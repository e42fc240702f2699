"""What a published dictionary's files hold, before its conventions are turned into this project's."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.published.place import Place
from vlmdiff.dictionaries.weights import LARGEST, UNREADABLE, DictionaryError
from vlmdiff.runtime.disk_errors import not_read

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
SAME_SCALE = 1e-4  # scales are often written down with five digits
# In names of tensors: gates, connections beside the features, thresholds by another name.
OF_OTHERS = re.compile(r"gate|[rb]_mag|skip|threshold")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Found:
    """A dictionary as it was published: `y = input_scale * x` goes in, `y_hat` comes out.

    Attributes:
        weights: float32 `W_enc (d_model, d_sae)`, `b_enc (d_sae,)`, `W_dec (d_sae, d_model)`,
            `b_dec (d_model,)`, for JumpReLU `threshold (d_sae,)`, of which one below zero lets negative
            activations pass, and maybe for TopK `divisor (d_sae,)`.
        k: TopK: active features a token; None for JumpReLU.
        subtract_decoder_bias: `b_dec` is subtracted from `y`.
        input_scale: factor from the raw residual stream to `y`.
        by_norm: threshold or TopK look at a pre-activation times the norm of its decoder row.
        place: what the files tell of the place in the model.
        model: name of the model, if the files give it.
        tells_norm: `input_scale` is sqrt(d_model) / average norm by the files, not 1 because they expect `x`.
    """

    weights: dict[str, Tensor]
    k: int | None
    subtract_decoder_bias: bool
    input_scale: float = 1.0
    by_norm: bool = False
    place: Place = Place()
    model: str | None = None
    tells_norm: bool = False


def read_json(path: Path) -> dict[str, Any]:
    """Read a published configuration.

    Raises:
        DictionaryError: it is missing or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise DictionaryError(f"{path}: not found. {remedy()}") from None
    except (ValueError, RecursionError, OSError) as error:
        damaged = DictionaryError(f"{path}: not valid JSON ({error}). {remedy()}")
        raise not_read(path, error) or damaged from error
    if not isinstance(values, dict):
        raise DictionaryError(f"{path}: expected a JSON object, found {type(values).__name__}. {remedy()}")
    return values


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, whatever their precision.

    Raises:
        DictionaryError: it is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        absent = DictionaryError(f"{path}: not found. {remedy()}")
        raise not_read(path, error) or absent from None
    except UNREADABLE as error:
        damaged = DictionaryError(f"{path}: cannot be read ({error}). {remedy()}")
        raise not_read(path, error) or damaged from error


def of_linear_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by their names, the matrices of linear layers (`….weight`) transposed."""
    return {
        name: one.T if name.endswith(".weight") and one.dim() == 2 else one for name, one in tensors.items()
    }


def needed(values: Mapping[str, Any], names: tuple[str, ...], path: Path) -> None:
    """Check that names are there.

    Raises:
        DictionaryError: telling which are missing and which were found.
    """
    missing = [name for name in names if name not in values]
    if missing:
        raise DictionaryError(f"{path}: missing {missing}, found {sorted(values)}. {remedy()}")


def check_kind_by_names(tensors: Iterable[str], known: Collection[str], path: Path) -> None:
    """Refuse tensors of another kind of model where files may hold some that are not known here.

    Raises:
        DictionaryError: naming them.
    """
    others = sorted(name for name in tensors if name not in known and OF_OTHERS.search(name.lower()))
    if others:
        raise DictionaryError(
            f"{path}: holds {others[:4]}, which a dictionary of this format does not have: a gated one, a "
            f"transcoder or one with thresholds. {remedy()}"
        )


def widened(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Bring tensors to float32 and check that their shapes fit together and their values are finite.

    Raises:
        DictionaryError: naming the first tensor that is wrong.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.is_meta:
            raise DictionaryError(
                f"{path}: {name} is {tensor.dtype}, {tensor.layout} on {tensor.device}, expected dense "
                f"floating-point numbers of 16, 32 or 64 bits. {remedy()}"
            )
    d_sae, d_model = tensors["b_enc"].numel(), tensors["b_dec"].numel()
    if not d_sae or not d_model:
        raise DictionaryError(f"{path}: found {d_sae} features of {d_model} dimensions. {remedy()}")
    shapes = {"W_enc": (d_model, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
    shapes |= dict.fromkeys(("threshold", "divisor"), (d_sae,))
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise DictionaryError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, expected {shapes[name]} "
                f"from b_enc and b_dec. {remedy()}"
            )
    wide = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    for name, tensor in wide.items():
        if not tensor.isfinite().all():
            raise DictionaryError(f"{path}: {name} holds NaN or infinite values. {remedy()}")
    return wide


def number(value: Any, key: str, path: Path, positive: bool = False) -> float:
    """Return a finite number of a configuration.

    Raises:
        DictionaryError: it is something else, or not positive where it has to be.
    """
    finite = type(value) in (int, float) and abs(value) < float("inf")
    if not finite or (positive and value <= 0):
        raise DictionaryError(
            f"{path}: {key} is {value!r}, expected a {'positive ' if positive else ''}finite number. "
            f"{remedy()}"
        )
    return float(value)


def chosen_scale(told: float | None, given: float | None, path: Path) -> float:
    """Return the input scale that the files tell, else the one of the config, else 1.

    Raises:
        DictionaryError: both tell one, and not the same.
    """
    if told is not None and given is not None and abs(given / told - 1) > SAME_SCALE:
        raise DictionaryError(
            f"{path}: the files tell an input scale of {told:g}, `input_scale` in the config is {given:g}; "
            "remove it from the dictionary's entry, or correct it"
        )
    return next((scale for scale in (told, given) if scale is not None), 1.0)


def check_sizes(
    config: Mapping[str, Any], names: Mapping[str, str], weights: Mapping[str, Tensor], path: Path
) -> None:
    """Refuse a configuration that tells other sizes than its tensors have.

    Args:
        config: as published.
        names: its keys for the width of the input and the number of features.
        weights: tensors by this project's names.
        path: for the message.

    Raises:
        DictionaryError: naming the key.
    """
    found = dict(zip(("d_model", "d_sae"), weights["W_enc"].shape))
    for key, size in names.items():
        if key in config and config[key] != found[size]:
            raise DictionaryError(
                f"{path}: {key} is {config[key]!r}, but the tensors are of (d_model, d_sae) = "
                f"{tuple(found.values())}. {remedy()}"
            )


def count(value: Any, key: str, path: Path, most: int = LARGEST) -> int:
    """Return a whole number of a configuration, at least 1.

    Raises:
        DictionaryError: it is something else, or larger than `most`.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise DictionaryError(
            f"{path}: {key} is {value!r}, expected a whole number from 1 to {most}. {remedy()}"
        )
    return value


def flag(config: Mapping[str, Any], key: str, default: bool, path: Path) -> bool:
    """Return a truth value of a configuration, `default` if it is left out or null.

    Raises:
        DictionaryError: it is something else.
    """
    value = config.get(key)
    if not isinstance(value, bool | None):
        raise DictionaryError(f"{path}: {key} is {value!r}, expected true or false. {remedy()}")
    return default if value is None else value


def filled(value: float, like: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
    """Return one float32 value for every feature."""
    return torch.full(like.shape, value, dtype=torch.float32)


def remedy() -> str:
    """Say what to do about a published file that cannot be used."""
    return "Check `format` and `file` of the dictionary in the config, or download the file again."

"""Parts of a dictionary on disk: some of its features, or the encoder alone, without the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmdiff.dictionaries.weights import WEIGHTS, DictionaryError, load_config_file, remedy
from vlmdiff.runtime.disk_errors import not_read

if TYPE_CHECKING:
    import torch

    from vlmdiff.dictionaries.modules import Dictionary


class FeatureRows:
    """Decoder rows and encoder columns of a dictionary, read as they are asked for.

    Attributes:
        shape: (d_sae, d_model) of the decoder, and of the transposed encoder.
    """

    def __init__(self, file: Any, folder: str | Path) -> None:
        """Look at the shapes of both matrices.

        Args:
            file: the opened weights.
            folder: where they lie, for messages.

        Raises:
            DictionaryError: the shapes are not those of `cfg.json`.
        """
        config, self.path = load_config_file(folder), Path(folder) / WEIGHTS
        self.shape = (config["d_sae"], config["d_in"])
        self._decoder, self._encoder = file.get_slice("W_dec"), file.get_slice("W_enc")
        for name, found, expected in (
            ("W_dec", self._decoder, self.shape),
            ("W_enc", self._encoder, self.shape[::-1]),
        ):
            shape, kind = tuple(found.get_shape()), found.get_dtype()
            if shape != expected:
                raise DictionaryError(
                    f"{self.path}: {name} has shape {shape}, cfg.json asks for {expected}. "
                    f"{remedy(self.path)}"
                )
            if kind != "F32":
                raise DictionaryError(f"{self.path}: {name} is {kind}, expected F32. {remedy(self.path)}")

    def decoder(self, start: int, stop: int) -> np.ndarray:
        """Return decoder rows, float32 `(stop - start, d_model)`."""
        return self._finite("W_dec", self._decoder[start:stop])

    def encoder(self, start: int, stop: int) -> np.ndarray:
        """Return encoder columns as rows, float32 `(stop - start, d_model)`."""
        return self._finite("W_enc", self._encoder[:, start:stop]).T

    def _finite(self, name: str, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise DictionaryError(f"{self.path}: {name} holds NaN or infinite values. {remedy(self.path)}")
        return values


def halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of a crosscoder's rows (n, 2 d) that stand for its two models, in order."""
    width = rows.shape[1] // 2
    return rows[:, :width], rows[:, width:]


@contextmanager
def feature_rows(folder: str | Path) -> Iterator[FeatureRows]:
    """Open a dictionary to read some of its features: a whole one takes a gigabyte at real size.

    Raises:
        DictionaryError: a file is missing or unreadable, a shape is wrong or a value is not finite.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="numpy") as file:
            yield FeatureRows(file, folder)
    except FileNotFoundError as error:
        absent = DictionaryError(f"{path}: not found, expected a dictionary's weights. {remedy(path)}")
        raise not_read(path, error) or absent from None
    except (SafetensorError, OSError) as error:
        damaged = DictionaryError(f"{path}: cannot be read ({error}). {remedy(path)}")
        raise not_read(path, error) or damaged from error


def count_features(folders: Sequence[str | Path]) -> int:
    """Return the features of all dictionaries together, as their `cfg.json` say.

    Raises:
        DictionaryError: a `cfg.json` is missing or damaged.
    """
    return sum(load_config_file(folder)["d_sae"] for folder in folders)


def check_width(folder: str | Path, found: int, expected: int) -> None:
    """Refuse a dictionary of another width than the residual stream that it is to read.

    Args:
        folder: the dictionary's, for the message.
        found: width of the dictionary.
        expected: width of the activations or of the model.

    Raises:
        DictionaryError: naming both.
    """
    if found != expected:
        raise DictionaryError(
            f"{folder}: the dictionary reads {found} dimensions, the residual stream has {expected}; train "
            "or import a dictionary for this model, and delete the folder if it was put there by mistake"
        )


def load_encoder(folder: str | Path, device: str | torch.device, d_model: int) -> Dictionary:
    """Load a dictionary that encodes only: without its decoder it takes half the memory of the device.

    It stays float32: TopK and thresholds would decide otherwise in 16 bits.

    Args:
        folder: the dictionary.
        device: where it goes.
        d_model: width of the residual stream that it is to read.

    Raises:
        DictionaryError: a file is missing or damaged, or the width is another.
    """
    from vlmdiff.dictionaries.files import load_dictionary

    dictionary = load_dictionary(folder).requires_grad_(False)
    check_width(folder, dictionary.d_model, d_model)
    dictionary.W_dec = None
    return dictionary.to(device)

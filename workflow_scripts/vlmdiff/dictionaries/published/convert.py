"""From a published dictionary's conventions to this project's: raw residual stream, unit decoder rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.published import gemma_scope, llama_scope, mmdiff, saelens
from vlmdiff.dictionaries.published.content import Found, remedy
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import CONFIG, WEIGHTS, DictionaryError

log = logging.getLogger(__name__)
READERS: dict[str, Callable[[PublishedSource], Found]] = {
    "llama_scope": llama_scope.read,
    "gemma_scope": gemma_scope.read,
    "mmdiff": mmdiff.read,
    "saelens": saelens.read,
    "vlmdiff": saelens.read,
}
# What one dictionary consists of, beneath its path; the path itself is the file for MMDiff.
FILES: dict[str, tuple[str, ...]] = {
    "llama_scope": (llama_scope.CONFIG, llama_scope.WEIGHTS),
    "gemma_scope": (gemma_scope.WEIGHTS,),
    "mmdiff": (),
    "saelens": (CONFIG, WEIGHTS),
    "vlmdiff": (CONFIG, WEIGHTS),
}
# Norms that differ by less are the same but for the rounding of float32, or of 16 bits.
SAME_NORM, SAME_NORM_16_BITS = 1e-6, 2.0**-8


def files_of(format: str, path: str) -> list[str]:
    """Return the files of one published dictionary, given its path."""
    if not FILES[format] or Path(path).suffix in {".npz", ".pt"}:
        return [path]
    return [f"{path}/{name}" for name in FILES[format]]


def read_published(source: PublishedSource) -> Found:
    """Read a published dictionary as it is.

    Raises:
        DictionaryError: its format is unknown, or its files cannot be used.
    """
    if source.format not in READERS:
        raise DictionaryError(f"{source.path}: unknown format '{source.format}'; known are {list(READERS)}")
    if source.format != "mmdiff" and (source.k is not None or source.subtract_decoder_bias is not None):
        raise DictionaryError(
            f"{source.path}: `k` and `subtract_decoder_bias` are for MMDiff files, which do not tell them; "
            f"remove them for format '{source.format}'"
        )
    return READERS[source.format](source)


@torch.no_grad()
def to_dictionary(found: Found) -> Dictionary:
    """Return a dictionary that encodes and decodes the raw residual stream as the published one does.

    Its activations are those of the published one times the norm of the decoder row, divided by the
    input scale. Rows get unit norm wherever that changes nothing else. That is always, but for a
    TopK dictionary that chooses among features of differing norm regardless of it: its rows are
    left as they are, and its activations are only divided by the input scale.
    """
    d_model, d_sae = found.weights["W_enc"].shape
    norms = found.weights["W_dec"].norm(dim=1)
    # Norms of 1 up to the rounding of a 16-bit file were meant to be 1.
    by_norm = found.by_norm and bool((norms - 1).abs().max() > SAME_NORM_16_BITS)
    state = {name: value for name, value in found.weights.items() if name != "threshold"}
    if found.k is not None:
        dictionary: Dictionary = TopKDictionary(d_model, d_sae, found.k, found.subtract_decoder_bias)
    else:
        dictionary = JumpReLUDictionary(d_model, d_sae, subtract_decoder_bias=found.subtract_decoder_bias)
        threshold = found.weights["threshold"]
        # A threshold on pre-activation times norm, as one on the pre-activation alone.
        threshold = threshold / norms.clamp_min(1e-12) if by_norm else threshold
        state["log_threshold"] = threshold.log()
    dictionary.load_state_dict(state)
    dictionary.rescale_input(1 / found.input_scale)
    if found.k is None or by_norm or norms.max() <= (1 + SAME_NORM) * norms.min():
        dictionary.fold_decoder_norms()
    return dictionary


def load_published(source: PublishedSource) -> Dictionary:
    """Read a published dictionary into this project's conventions.

    Raises:
        DictionaryError: its format is unknown, or its files cannot be used.
    """
    dictionary = to_dictionary(read_published(source))
    check_converted(dictionary, source.path)
    return dictionary


def check_converted(dictionary: Dictionary, path: str | Path) -> None:
    """Refuse weights that the conversion made infinite.

    Raises:
        DictionaryError: naming the first.
    """
    for name, value in dictionary.state_dict().items():
        # The logarithm of a threshold of zero is minus infinity.
        if value.isnan().any() or (value == float("inf")).any():
            raise DictionaryError(
                f"{path}: {name} is not finite once brought to the units of the residual stream: a scale, "
                f"norm or threshold of it is wrong. {remedy()}"
            )

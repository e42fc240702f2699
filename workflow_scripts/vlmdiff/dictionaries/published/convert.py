"""From a published dictionary's conventions to this project's: raw residual stream, unit decoder rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.published import (
    crosscoder,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    mmdiff,
    openmoss,
    qwen_scope,
    saelens,
    sparsify,
)
from vlmdiff.dictionaries.published.content import NAMES, Found, remedy
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError

log = logging.getLogger(__name__)
READERS: dict[str, Callable[[PublishedSource], Found]] = {
    "llama_scope": llama_scope.read,
    "gemma_scope": gemma_scope.read,
    "gemma_scope_2": gemma_scope_2.read,
    "mmdiff": mmdiff.read,
    "qwen_scope": qwen_scope.read,
    "saelens": saelens.read,
    "vlmdiff": saelens.read,
    "sparsify": sparsify.read,
    "openmoss": openmoss.read,
    "dictionary_learning": dictionary_learning.read,
    "crosscoder": crosscoder.read,
}
# What no file tells, and the formats of which that is so.
UNTOLD = {"k": ("mmdiff", "qwen_scope"), "subtract_decoder_bias": ("mmdiff",)}
# Norms that differ by less are the same but for the rounding of 16 bits.
SAME_NORM_16_BITS = 2.0**-8


def read_published(source: PublishedSource) -> Found:
    """Read a published dictionary as it is.

    Raises:
        DictionaryError: its format is unknown, or its files cannot be used.
    """
    if source.format not in READERS:
        raise DictionaryError(f"{source.path}: unknown format '{source.format}'; known are {list(READERS)}")
    for name, formats in UNTOLD.items():
        if getattr(source, name) is not None and source.format not in formats:
            raise DictionaryError(
                f"{source.path}: `{name}` is for {' and '.join(formats)}, whose files do not tell it; "
                f"remove it for format '{source.format}'"
            )
    return READERS[source.format](source)


@torch.no_grad()
def to_dictionary(found: Found) -> Dictionary:
    """Return a dictionary of unit rows that encodes and decodes the raw residual stream as the published one.

    Its activations are those of the published one times the norm of the decoder row, divided by the input
    scale. Which features are active is the same: a TopK dictionary that chose regardless of norms keeps them
    as its divisor.
    """
    dictionary = topk(found) if found.k is not None else jumprelu(found)
    dictionary.rescale_input(1 / found.input_scale)
    if isinstance(dictionary, TopKDictionary) and not found.by_norm:
        dictionary.keep_choice()
    else:
        dictionary.fold_decoder_norms()
    return dictionary


def parameters(found: Found) -> dict[str, Tensor]:
    """Return the four weights that every dictionary has."""
    return {name: found.weights[name] for name in NAMES}


def topk(found: Found) -> TopKDictionary:
    """Return a TopK dictionary in the published units, with the published rows."""
    d_model, d_sae = found.weights["W_enc"].shape
    divisor = found.weights.get("divisor")
    dictionary = TopKDictionary(d_model, d_sae, found.k, found.subtract_decoder_bias, divisor)
    state = parameters(found) | ({} if divisor is None else {"divisor": divisor})
    dictionary.load_state_dict(state)
    if found.by_norm:
        # Times a norm of zero, no pre-activation is ever among the largest ones.
        silent = dictionary.W_dec.norm(dim=1) == 0
        dictionary.W_enc[:, silent], dictionary.b_enc[silent] = 0.0, 0.0
    return dictionary


def jumprelu(found: Found) -> JumpReLUDictionary:
    """Return a JumpReLU dictionary in the published units, with the published rows."""
    d_model, d_sae = found.weights["W_enc"].shape
    dictionary = JumpReLUDictionary(d_model, d_sae, subtract_decoder_bias=found.subtract_decoder_bias)
    dictionary.load_state_dict(parameters(found), strict=False)
    norms, threshold = found.weights["W_dec"].norm(dim=1), found.weights["threshold"]
    # Norms of 1 up to the rounding of a 16-bit file were meant to be 1.
    if found.by_norm and bool((norms - 1).abs().max() > SAME_NORM_16_BITS):
        # A threshold on pre-activation times norm, as one on the pre-activation alone.
        threshold = threshold / norms.clamp_min(1e-12)
    dictionary.set_threshold(threshold)
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

"""Qwen Scope: `layer{l}.sae.pt` with `W_enc (d_sae, d_model)`, `W_dec (d_model, d_sae)`, `b_enc`, `b_dec`."""

from __future__ import annotations

from pathlib import Path

from vlmdiff.dictionaries.published.content import NAMES, Found, chosen_scale, count, needed, widened
from vlmdiff.dictionaries.published.mmdiff import read_pickle, tensors_in
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import DictionaryError


def read(source: PublishedSource) -> Found:
    """Read one layer's file: TopK on the raw residual stream, `b_dec` not subtracted.

    Raises:
        DictionaryError: the file is missing or damaged, or the config does not tell `k`, which stands in
            the name of the repository alone.
    """
    path = Path(source.path)
    if source.k is None:
        raise DictionaryError(
            f"{path}: no file of Qwen Scope tells its k; give `k` in its entry in the config, as the name of "
            "the repository ends (50 of …-L0_50)"
        )
    tensors = tensors_in(read_pickle(path), path)
    needed(tensors, NAMES, path)
    lying = {name: tensors[name].T if name.startswith("W_") else tensors[name] for name in NAMES}
    weights = widened(lying, path)
    count(source.k, "`k` in the config", path, weights["b_enc"].numel())
    return Found(weights, source.k, False, chosen_scale(None, source.input_scale, path))

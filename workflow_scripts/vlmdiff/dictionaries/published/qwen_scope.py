"""Qwen Scope: `layer{l}.sae.pt` with `W_enc (d_sae, d_model)`, `W_dec (d_model, d_sae)`, `b_enc`, `b_dec`."""

from __future__ import annotations

from pathlib import Path

from vlmdiff.dictionaries.published.content import (
    NAMES,
    Found,
    check_kind_by_names,
    chosen_scale,
    count,
    needed,
    widened,
)
from vlmdiff.dictionaries.published.mmdiff import check_k, read_pickle, tensors_in, told_k
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
    content = read_pickle(path)
    check_k(source.k, told_k(content), False, path)
    tensors = tensors_in(content, path)
    needed(tensors, NAMES, path)
    check_kind_by_names(tensors, (), path)
    lying = {name: tensors[name].T if name.startswith("W_") else tensors[name] for name in NAMES}
    weights = widened(lying, path)
    count(source.k, "`k` in the config", path, weights["b_enc"].numel())
    return Found(weights, source.k, False, chosen_scale(None, source.input_scale, path))

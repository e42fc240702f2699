"""Latent scaling: how strongly two models have a feature of the tuned one (arXiv 2504.02922, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vlmdiff.activations.paired import open_store
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.pairs import active_products
from vlmdiff.dictionaries.partial_reads import check_width
from vlmdiff.features.firings import tokens_at_once
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.features import LATENT_SCALING
from vlmdiff.tables.io import write_table

if TYPE_CHECKING:
    from vlmdiff.activations.paired import PairedStore
    from vlmdiff.activations.store import ActivationStore
    from vlmdiff.dictionaries.modules import Dictionary


@torch.no_grad()
def layer_scaling(stores: Sequence[PairedStore], dictionary: Dictionary) -> dict[str, np.ndarray]:
    """Return for each feature `beta = d.sum_t f_t x_t / (|d|^2 sum_t f_t^2)` in both models, NaN if silent.

    `beta` is the factor with which `f d` explains a model's residual stream `x` best, by least squares. `f`
    is the feature's activation in the second model, `d` its decoder row.

    Args:
        stores: the same text tokens in the model before tuning, then in the tuned one.
        dictionary: of the tuned model, with its decoder.
    """
    products = np.zeros((2, dictionary.d_sae))
    squares = np.zeros(dictionary.d_sae)
    norms = dictionary.W_dec.detach().double().square().sum(dim=1).numpy()
    for store in stores:
        for chunk in store.chunks(["text"], tokens_at_once(dictionary.d_sae)):
            models = [part.contiguous() for part in chunk.values.split(store.width, dim=1)]
            pairs = dictionary.active_pairs(models[1])
            columns, values = pairs.columns.numpy(), pairs.values.double().numpy()
            squares += np.bincount(columns, values**2, dictionary.d_sae)
            for sums, x in zip(products, models, strict=True):
                along = active_products(x, pairs, dictionary.W_dec).double().numpy()
                sums += np.bincount(columns, values * along, dictionary.d_sae)
    with np.errstate(invalid="ignore", divide="ignore"):
        base, tuned = np.where(squares > 0, products / (norms * squares), np.nan)
    return {"beta_base": base, "beta_model": tuned}


@torch.no_grad()
def energies(stores: Sequence[ActivationStore], dictionary: Dictionary) -> np.ndarray:
    """Return the mean of z squared of each feature over all text tokens of some data sets, (d_sae,).

    Args:
        stores: of one model, or of pairs, of which the first model counts.
        dictionary: of that model.
    """
    squares, tokens = np.zeros(dictionary.d_sae), 0
    for store in stores:
        for chunk in store.chunks(["text"], tokens_at_once(dictionary.d_sae)):
            pairs = dictionary.active_pairs(chunk.values[:, : dictionary.d_model].contiguous())
            squares += np.bincount(
                pairs.columns.numpy(), pairs.values.double().numpy() ** 2, dictionary.d_sae
            )
            tokens += len(chunk.values)
    return squares / tokens if tokens else np.full(dictionary.d_sae, np.nan)


def scale_latents(
    shards: Mapping[int, Sequence[Sequence[str | Path]]],
    texts: Mapping[int, Sequence[Sequence[str | Path]]],
    dictionaries: Sequence[tuple[str | Path, str | Path]],
    output: str | Path,
) -> None:
    """Measure latent scaling, and what features did before tuning, at all layers (contract LATENT_SCALING).

    Args:
        shards: by layer, of each data set the shards of the model before tuning, then of the tuned one.
        texts: by layer, of each text-only data set the shards of the model before tuning.
        dictionaries: folders of the base dictionary and of the tuned model's, a pair a layer.
        output: path of the table.

    Raises:
        ShardError: shards are damaged, or cannot be paired.
        DictionaryError: a dictionary is damaged or of another width.
    """
    frames = []
    layers = list(zip(shards.items(), dictionaries, strict=True))
    for (layer, series), folders in progress(layers, "layers"):
        stores = [open_store(paths, layer) for paths in series]
        before, dictionary = (load_dictionary(folder).requires_grad_(False) for folder in folders)
        for folder, one in zip(folders, (before, dictionary)):
            check_width(folder, one.d_model, stores[0].width)
        found = layer_scaling(stores, dictionary)
        found["text_energy_before"] = energies([open_store(paths, layer) for paths in texts[layer]], before)
        found["visual_energy_before"] = energies(stores, before)
        frames.append(pd.DataFrame({"layer": layer, "feature": np.arange(dictionary.d_sae), **found}))
    write_table(pd.concat(frames, ignore_index=True), LATENT_SCALING, output)

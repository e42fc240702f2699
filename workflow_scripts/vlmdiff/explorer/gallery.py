"""The strongest samples of the best features, with what each patch of their pictures adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from vlmdiff.data.samples import load_samples
from vlmdiff.explorer.examples import active_tokens, token_rows
from vlmdiff.explorer.pictures import EDGES
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.tables.explorer import GALLERY_PATCHES
from vlmdiff.tables.io import write_table

FEATURE = ["layer", "feature"]
ADAPTED = "adapted"


def write_patches(
    gallery: pd.DataFrame,
    model: ModelFiles,
    samples_file: str | Path,
    dictionaries: Mapping[int, Path],
    batch_tokens: int,
    massive_ratio: float,
    output: str | Path,
) -> None:
    """Write what a gallery's features do on the patches of its pictures (contract GALLERY_PATCHES).

    The model reads the samples once more: top samples are found by text tokens alone.

    Args:
        gallery: GALLERY.
        model: the model that is studied; it is loaded only if there are pictures.
        samples_file: samples.jsonl of the samples.
        dictionaries: folder of the dictionary of each layer.
        batch_tokens: tokens in one forward pass, padding included.
        massive_ratio: multiple of its sample's median norm above which a token is left out; 0: none is.
        output: where the table goes.
    """
    shown = set(gallery.loc[gallery["image"] != "", "sample_id"])
    table = pd.DataFrame(columns=GALLERY_PATCHES.names)
    if shown:
        subject = model.load()
        samples = [sample for sample in load_samples(samples_file) if sample.sample_id in shown]
        features = list(gallery[FEATURE].drop_duplicates().itertuples(index=False, name=None))
        folders = {ADAPTED: {layer: dictionaries[layer] for layer, _ in features}}
        active = active_tokens(subject, samples, folders, features, batch_tokens, massive_ratio)[ADAPTED]
        names = [sample.sample_id for sample in samples]
        active = active.assign(sample_id=[names[place] for place in active["sample"]])
        tokens = token_rows(subject, samples, batch_tokens)
        table = patches_of(gallery, tokens[tokens["left"].notna()], active)
    write_table(table, GALLERY_PATCHES, output)


def patches_of(gallery: pd.DataFrame, patches: pd.DataFrame, active: pd.DataFrame) -> pd.DataFrame:
    """Return every patch of each picture of a gallery, with the activation of the row's feature.

    Args:
        gallery: GALLERY.
        patches: columns sample_id, position and the edges.
        active: columns layer, feature, sample_id, position and activation; what is silent has no row.
    """
    found = gallery.drop(columns="activation").merge(
        patches[["sample_id", "position", *EDGES]], on="sample_id"
    )
    values = active[[*FEATURE, "sample_id", "position", "activation"]]
    found = found.merge(values, how="left", on=[*FEATURE, "sample_id", "position"])
    return found.assign(activation=found["activation"].fillna(0.0))[GALLERY_PATCHES.names]

"""Where a feature's top head looks in the images that the feature fires on most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmdiff.activations.tokens import IMAGE
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.modules import Dictionary
from vlmdiff.dictionaries.partial_reads import check_width
from vlmdiff.heads.aggregate import head_scores
from vlmdiff.heads.corruption import with_images
from vlmdiff.interventions.inputs import (
    Feature,
    ModelFiles,
    dictionary_folders,
    ranked_features,
    table_of,
)
from vlmdiff.models.batch import Batch
from vlmdiff.models.positions import text_after_image
from vlmdiff.models.subject import Subject
from vlmdiff.models.token_text import TokenTexts
from vlmdiff.tables.causal import HEAD_ATTENTION, HEAD_ATTRIBUTION
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.io import read_table, write_table


class AttentionError(ValueError):
    """Attention weights cannot be drawn over the image."""


@dataclass(frozen=True)
class Peak:
    """A sample and the largest activation of a feature on its text tokens after the image."""

    sample: Sample
    activation: float


def batch_peaks(
    residual: Float[Tensor, "samples tokens d_model"], batch: Batch, dictionary: Dictionary, feature: int
) -> Float[Tensor, " samples"]:
    """Return each sample's largest activation on text after the image."""
    activation = dictionary.encode(residual.flatten(0, 1).float())[:, feature].view(residual.shape[:2])
    allowed = text_after_image(batch)
    return activation.masked_fill(~allowed, -1.0).amax(dim=1)


@torch.no_grad()
def strongest_peaks(
    subject: Subject,
    samples: Sequence[Sample],
    dictionary: Dictionary,
    feature: Feature,
    count: int,
    batch_tokens: int,
) -> list[Peak]:
    """Return the samples on which a feature fires most, strongest first; fewer if it fires on fewer."""
    peaks = []
    for indices, batch in prepare_batches(subject, samples, batch_tokens):
        residual = subject.residuals(batch, [feature[0]])[feature[0]]
        values = batch_peaks(residual, batch, dictionary, feature[1]).tolist()
        peaks += [Peak(samples[i], value) for i, value in zip(indices, values)]
    fired = [peak for peak in peaks if peak.activation > 0]
    return sorted(fired, key=lambda peak: (-peak.activation, peak.sample.sample_id))[:count]


@contextmanager
def recorded_weights(module: nn.Module) -> Iterator[list[Tensor | None]]:
    """Yield a list that receives the attention weights of a module."""
    found: list[Tensor | None] = []
    handle = module.register_forward_hook(lambda _module, _args, output: found.append(output[1]))
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def attention_of(subject: Subject, batch: Batch, head: tuple[int, int]) -> Float[Tensor, "queries keys"]:
    """Return a head's attention weights on a batch's only sample.

    Raises:
        AttentionError: the model does not return weights.
    """
    layer, index = head
    with recorded_weights(subject.attention(layer)) as found:
        subject.residuals(batch, [layer])
    if found[0] is None:
        raise AttentionError(
            f"model '{subject.name}' returns no attention weights; load it with attention: eager "
            "(sdpa keeps none)"
        )
    return found[0][0, index].float().cpu()


def most_looking(weights: Float[Tensor, "queries keys"], batch: Batch) -> int:
    """Return the text token after the image that attends most to the image."""
    on_image = weights[:, batch.token_type[0].cpu() == IMAGE].sum(1)
    return int(on_image.masked_fill(~text_after_image(batch)[0].cpu(), -1.0).argmax())


def patch_grid(weights: Float[Tensor, " tokens"], batch: Batch) -> np.ndarray:
    """Return the weights of the image tokens in the rows and columns of the picture, over all its tiles.

    Raises:
        AttentionError: the tokens have no places in the picture.
    """
    rows, columns = batch.seen.grids[0].tolist()
    patches = weights[batch.token_type[0].cpu() == IMAGE].numpy()
    if rows == 1 and columns > 1:
        raise AttentionError(
            f"the {columns} image tokens are one row, as where a CLS token is kept beside the patches; "
            "attention can only be drawn for models that keep one token a patch"
        )
    grid, places = np.empty((rows, columns), patches.dtype), batch.seen.places(0)
    grid[tuple(places.T.numpy())] = patches[: len(places)]
    return grid


def peak_rows(subject: Subject, peak: Peak, head: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield one row a patch for one sample."""
    _, batch = next(iter(prepare_batches(subject, [peak.sample], batch_tokens=1)))
    weights = attention_of(subject, batch, head)
    position = most_looking(weights, batch)
    grid = patch_grid(weights[position], batch)
    token = TokenTexts(subject.tokenizer).name(int(batch.input_ids[0, position]))
    place = {"sample_id": peak.sample.sample_id, "position": position, "token": token}
    edges = subject.view_of(peak.sample.image_size())
    place |= dict(zip(("left", "top", "right", "bottom"), edges, strict=True))
    for row, col in np.ndindex(grid.shape):
        weight = {"row": row, "col": col, "weight": float(grid[row, col])}
        yield {**place, "activation": peak.activation, **weight}


def top_head(attribution: pd.DataFrame, feature: Feature) -> tuple[int, int]:
    """Return the head with the largest attribution for one feature."""
    own = (attribution["feature_layer"] == feature[0]) & (attribution["feature"] == feature[1])
    best = head_scores(attribution[own]).iloc[0]
    return int(best["layer"]), int(best["head"])


def map_attention(
    model: ModelFiles,
    samples_file: str,
    dictionaries: Sequence[str],
    tables: dict[str, str],
    output: str,
    *,
    layers: Sequence[int],
    concept: str,
    features: int,
    samples: int,
    images: int,
    batch_tokens: int,
) -> None:
    """Write attention.csv: for each traced feature, where its top head looks on its strongest samples.

    Args:
        model: the VLM; it is loaded with eager attention, the only kind that returns weights.
        samples_file: samples.jsonl from which the strongest samples are taken.
        dictionaries: weights of the adapted dictionary at each of `layers`.
        tables: paths of `ranking` and `attribution`.
        output: attention.csv.
        layers: decoder blocks that have dictionaries.
        concept: name of the concept.
        features: how many of the best features are drawn.
        samples: samples searched, from the first on.
        images: strongest samples of each feature.
        batch_tokens: tokens in one forward pass, padding included.
    """
    ranked = ranked_features(tables["ranking"], features)
    rows: list[dict[str, Any]] = []
    if ranked:
        subject = model.load(attention="eager")
        searched = with_images(load_samples(Path(samples_file)), samples)
        attribution = read_table(tables["attribution"], HEAD_ATTRIBUTION)
        folders = dictionary_folders(dictionaries, layers)
        for feature in ranked:
            layer, head = top_head(attribution, feature)
            dictionary = load_dictionary(folders[feature[0]]).to(subject.device)
            check_width(folders[feature[0]], dictionary.d_model, subject.d_model)
            first = {"feature_layer": feature[0], "feature": feature[1], "name": feature_name(feature)}
            first |= {"layer": layer, "head": head, "head_name": f"L{layer}H{head}"}
            peaks = strongest_peaks(subject, searched, dictionary, feature, images, batch_tokens)
            for rank, peak in enumerate(peaks):
                found = peak_rows(subject, peak, (layer, head))
                rows += [{**first, "sample_rank": rank, **row} for row in found]
    names = [name for name in HEAD_ATTENTION.names if name != "concept"]
    write_table(table_of(rows, names).assign(concept=concept), HEAD_ATTENTION, output)

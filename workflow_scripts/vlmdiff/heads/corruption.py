"""Corrupt runs for tracing: what the image shows is replaced by the mean image (docs/method.md section 8)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample
from vlmdiff.models.batch import Batch
from vlmdiff.models.subject import Subject

log = logging.getLogger(__name__)


class CorruptionError(ValueError):
    """Samples have no images whose removal could be traced."""


@dataclass(frozen=True)
class Run:
    """One batch in its clean and its corrupt version.

    Attributes:
        batch: the prompts.
        clean, corrupt: what enters block 0, with the samples' own images and with the mean image.
        after_image: text tokens after the image, over which the metric is summed.
        real: image and text tokens, over which attributions are averaged.
    """

    batch: Batch
    clean: Float[Tensor, "samples tokens d_model"]
    corrupt: Float[Tensor, "samples tokens d_model"]
    after_image: Bool[Tensor, "samples tokens"]
    real: Bool[Tensor, "samples tokens"]


def with_images(samples: Sequence[Sample], wanted: int) -> list[Sample]:
    """Return the first `wanted` samples that have an image.

    Raises:
        CorruptionError: none has.
    """
    found = [sample for sample in samples if sample.image is not None][:wanted]
    if not found:
        raise CorruptionError(
            f"found no image in {len(samples)} samples; set heads.dataset to a data set with images"
        )
    if len(found) < wanted:
        log.warning("%d samples with images asked for, %d found", wanted, len(found))
    return found


def text_after_image(batch: Batch) -> Bool[Tensor, "samples tokens"]:
    """Mark text tokens that follow the last image token of their sample."""
    position = torch.arange(batch.token_type.shape[1], device=batch.token_type.device)
    is_image = batch.token_type == IMAGE
    last_image = torch.where(is_image, position, -1).amax(dim=1, keepdim=True)
    return (batch.token_type == TEXT) & (position > last_image) & (last_image >= 0)


def image_rows(subject: Subject, batches: Sequence[Batch]) -> list[Float[Tensor, "image_tokens d_model"]]:
    """Return the embeddings of each sample's image tokens."""
    rows = []
    for batch in batches:
        embeds = subject.embed(batch).float()
        rows += [embeds[i, batch.token_type[i] == IMAGE] for i in range(len(batch))]
    return rows


@torch.no_grad()
def mean_image(
    subject: Subject, samples: Sequence[Sample], batch_tokens: int
) -> Float[Tensor, "image_tokens d_model"]:
    """Return the mean over samples of the image-token embeddings that enter block 0.

    It is taken position by position where all images have equally many tokens, which keeps what
    the projector says about position; else it is one row, the mean over all image tokens.
    """
    rows = image_rows(subject, [batch for _, batch in prepare_batches(subject, samples, batch_tokens)])
    if len({len(row) for row in rows}) == 1:
        return torch.stack(rows).mean(dim=0)
    return torch.cat(rows).mean(dim=0, keepdim=True)


def corrupted(
    batch: Batch, embeds: Float[Tensor, "samples tokens d_model"], mean: Float[Tensor, "image_tokens d_model"]
) -> Float[Tensor, "samples tokens d_model"]:
    """Return embeddings whose image tokens are those of the mean image."""
    result = embeds.clone()
    is_image = batch.token_type == IMAGE
    order = (is_image.cumsum(dim=1) - 1)[is_image]
    result[is_image] = mean.to(embeds.dtype)[order if len(mean) > 1 else torch.zeros_like(order)]
    return result


@torch.no_grad()
def clean_and_corrupt(
    subject: Subject,
    samples: Sequence[Sample],
    mean: Float[Tensor, "image_tokens d_model"],
    batch_tokens: int,
) -> list[Run]:
    """Return the batches of samples with both versions of what enters block 0."""
    runs = []
    for _, batch in prepare_batches(subject, samples, batch_tokens):
        embeds = subject.embed(batch)
        real = (batch.token_type == IMAGE) | (batch.token_type == TEXT)
        runs.append(Run(batch, embeds, corrupted(batch, embeds, mean), text_after_image(batch), real))
    return runs

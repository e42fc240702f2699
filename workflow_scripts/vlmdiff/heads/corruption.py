"""Corrupt runs for tracing: what the image shows is replaced by the mean image (docs/method.md section 8)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.activations.tokens import BOS, PADDING
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample
from vlmdiff.models.batch import Batch, Seen
from vlmdiff.models.positions import text_after_image
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
        real: image and text tokens, and a BOS after the image, over which attributions are averaged.
        corrupt_seen: the mean image in place of each image, for models that also add images between
            their blocks; None if `corrupt` says it all.
    """

    batch: Batch
    clean: Float[Tensor, "samples tokens d_model"]
    corrupt: Float[Tensor, "samples tokens d_model"]
    after_image: Bool[Tensor, "samples tokens"]
    real: Bool[Tensor, "samples tokens"]
    corrupt_seen: Seen | None = None

    @property
    def corrupt_batch(self) -> Batch:
        """The prompts with the mean image."""
        return self.batch if self.corrupt_seen is None else replace(self.batch, seen=self.corrupt_seen)


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


def influenced(batch: Batch) -> Bool[Tensor, "samples tokens"]:
    """Mark image and text tokens, and a BOS that does not stand first: it sees the image too."""
    marked = batch.token_type != PADDING
    marked[:, 0] &= batch.token_type[:, 0] != BOS
    return marked


def by_image(values: Float[Tensor, "*levels image_tokens d_model"], seen: Seen) -> list[Tensor]:
    """Cut values of all image tokens into one tensor an image."""
    return list(values.split(seen.grids.prod(dim=1).tolist(), dim=-2))


def mean_of(images: Sequence[Tensor]) -> Tensor:
    """Return the mean over images position by position, or over all positions if their numbers differ."""
    if len({image.shape[-2] for image in images}) == 1:
        return torch.stack(list(images)).mean(dim=0)
    return torch.cat(list(images), dim=-2).mean(dim=-2, keepdim=True)


@torch.no_grad()
def mean_image(subject: Subject, samples: Sequence[Sample], batch_tokens: int) -> Seen:
    """Return the mean over samples of what the tower and the projector make of their images.

    It is taken position by position where all images have equally many tokens, which keeps what
    the projector says about position; else it is one row, the mean over all image tokens.
    """
    features, deepstack = [], []
    for _, batch in prepare_batches(subject, samples, batch_tokens):
        features += by_image(batch.seen.features.float(), batch.seen)
        if batch.seen.deepstack is not None:
            deepstack += by_image(batch.seen.deepstack.float(), batch.seen)
    return Seen(mean_of(features), batch.seen.grids[:1], mean_of(deepstack) if deepstack else None)


def corrupted(seen: Seen, mean: Seen) -> Seen:
    """Return images that are all the mean image, each with its own number of tokens."""

    def repeated(values: Tensor, like: Tensor) -> Tensor:
        wanted = seen.grids.prod(dim=1).tolist()
        parts = [
            values if count == values.shape[-2] else values.expand(*values.shape[:-2], count, -1)
            for count in wanted
        ]
        return torch.cat(parts, dim=-2).to(like)

    deepstack = None if seen.deepstack is None else repeated(mean.deepstack, seen.deepstack)
    return Seen(repeated(mean.features, seen.features), seen.grids, deepstack)


@torch.no_grad()
def clean_and_corrupt(
    subject: Subject, samples: Sequence[Sample], mean: Seen, batch_tokens: int
) -> list[Run]:
    """Return the batches of samples with both versions of what enters block 0."""
    runs = []
    for _, batch in prepare_batches(subject, samples, batch_tokens):
        clean, shown = subject.embed(batch), corrupted(batch.seen, mean)
        corrupt = subject.embed(replace(batch, seen=shown))
        runs.append(Run(batch, clean, corrupt, text_after_image(batch), influenced(batch), shown))
    return runs

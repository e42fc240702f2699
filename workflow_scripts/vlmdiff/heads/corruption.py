"""Corrupt runs for tracing: the mean image replaces each image (docs/understand/method.md section 8)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.activations.tokens import BOS, PADDING
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample
from vlmdiff.models.batch import Batch, Layout, Seen
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


@dataclass(frozen=True)
class MeanImage:
    """The mean over pictures of what the tower and the projector make of them.

    Level 0 are the features that enter block 0; the others are deepstack's.

    Attributes:
        token: (levels, 1, d_model) mean over all image tokens of all pictures.
        grid: rows and columns of the pictures' tokens and of their tiles, if all have the same; else None.
        positions: (levels, tokens, d_model) mean at each position of that grid, or None.
    """

    token: Float[Tensor, "levels 1 d_model"]
    grid: Layout | None = None
    positions: Float[Tensor, "levels tokens d_model"] | None = None

    def of(self, grid: Layout, tokens: int) -> Float[Tensor, "levels tokens d_model"]:
        """Return the mean image for a picture of a grid and so many tokens.

        By position, which keeps what the projector says about place, where all pictures of the mean have
        this grid. Else the mean token at every position: positions of two grids are not the same places.
        """
        if grid == self.grid:
            return self.positions
        return self.token.expand(-1, tokens, -1)


def pictures_of(seen: Seen) -> Iterator[tuple[Layout, Tensor]]:
    """Yield grid and values (levels, tokens, d_model) of each picture of a batch."""
    deepstack = [] if seen.deepstack is None else list(seen.deepstack)
    values = torch.stack([seen.features, *deepstack])
    yield from zip(seen.layouts, values.split(seen.counts, dim=1), strict=True)


@torch.no_grad()
def mean_image(subject: Subject, samples: Sequence[Sample], batch_tokens: int) -> MeanImage:
    """Return the mean image of samples; one batch of them is held at a time.

    Raises:
        CorruptionError: no sample has an image.
    """
    grids: Counter[Layout] = Counter()
    total, positions, tokens = 0.0, 0.0, 0
    for _, batch in prepare_batches(subject, samples, batch_tokens):
        for grid, values in [] if batch.seen is None else pictures_of(batch.seen):
            grids[grid] += 1
            tokens += values.shape[1]
            exact = values.cpu().double()
            total = total + exact.sum(dim=1, keepdim=True)
            positions = positions + exact if len(grids) == 1 else 0.0
    if not grids:
        raise CorruptionError(f"found no image in {len(samples)} samples, expected some to take the mean of")
    token = (total / tokens).float()
    if len(grids) > 1:
        log.info("the pictures have %d grids of tokens: the mean image is one token, repeated", len(grids))
        return MeanImage(token)
    ((grid, count),) = grids.items()
    return MeanImage(token, grid, (positions / count).float())


def corrupted(seen: Seen, mean: MeanImage) -> Seen:
    """Return images that are all the mean image, each with its own grid."""
    sizes = zip(seen.layouts, seen.counts, strict=True)
    shown = torch.cat([mean.of(grid, tokens) for grid, tokens in sizes], dim=1)
    features, *deepstack = shown.to(seen.features)
    return replace(seen, features=features, deepstack=torch.stack(deepstack) if deepstack else None)


@torch.no_grad()
def clean_and_corrupt(
    subject: Subject, samples: Sequence[Sample], mean: MeanImage, batch_tokens: int
) -> list[Run]:
    """Return the batches of samples with both versions of what enters block 0."""
    runs = []
    for _, batch in prepare_batches(subject, samples, batch_tokens):
        clean, shown = subject.embed(batch), corrupted(batch.seen, mean)
        corrupt = subject.embed(replace(batch, seen=shown))
        runs.append(Run(batch, clean, corrupt, text_after_image(batch), influenced(batch), shown))
    return runs

"""Batches of samples of similar length: little padding, bounded memory."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from vlmdiff.data.samples import Sample
from vlmdiff.models.errors import PromptError, SubjectError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmdiff.models.batch import Batch
    from vlmdiff.models.subject import Subject

# What a batch computes should stay in a core's cache: 2,048 tokens took two thirds of the time of 8,192.
CPU_BATCH_TOKENS = 2048


def length_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices of similar length; longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each sample.
        budget: most tokens of a batch, padding included. A longer sample is a batch of its own.

    Returns:
        Each index once; within a batch in falling length, ties in rising index.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # The first of a batch is its longest, so it sets the padded width.
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@contextmanager
def naming(samples: Sequence[Sample], indices: Sequence[int]) -> Iterator[None]:
    """Name the sample and its file where a model cannot be shown one of several.

    Args:
        samples: the data set.
        indices: which of them the model is shown, in its order.

    Raises:
        SubjectError: the model cannot be shown one of them.
    """
    try:
        yield
    except PromptError as error:
        sample = samples[indices[error.index]]
        image = "" if sample.image is None else f" with image '{sample.image}'"
        raise SubjectError(
            f"{sample.folder / 'samples.jsonl'}: sample '{sample.sample_id}'{image}: {error}"
        ) from error


def token_rows(subject: Subject, samples: Sequence[Sample]) -> list[list[int]]:
    """Return the token ids of each sample, image tokens included; of images only the size is read.

    Raises:
        SubjectError: naming a sample that the model cannot be shown.
    """
    rows: list[list[int]] = [[] for _ in samples]
    for (_, chat), members in alike(samples).items():
        sizes = [samples[i].image_size() for i in members]
        with naming(samples, members):
            found = subject.rows([samples[i].prompt for i in members], sizes, chat)
        for index, row in zip(members, found, strict=True):
            rows[index] = row
    return rows


def sample_lengths(subject: Subject, samples: Sequence[Sample]) -> list[int]:
    """Return how many tokens each sample has, image tokens included."""
    return [len(row) for row in token_rows(subject, samples)]


def alike(samples: Sequence[Sample]) -> dict[tuple[bool, bool], list[int]]:
    """Group indices by (has an image, uses the chat template): these are prepared together."""
    groups: dict[tuple[bool, bool], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.image is not None, sample.chat].append(index)
    return dict(groups)


def prepare_batches(
    subject: Subject, samples: Sequence[Sample], batch_tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    """Yield (indices into `samples`, batch), every sample once, batched by length.

    Samples with and without images, and with and without chat template, go into separate batches.

    Args:
        subject: the model.
        samples: what it is shown.
        batch_tokens: most tokens of a batch, padding included; on a CPU at most 2,048.
    """
    rows = token_rows(subject, samples)
    if subject.device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS)
    for (_, chat), members in alike(samples).items():
        batches = [
            [members[i] for i in local]
            for local in length_batches([len(rows[i]) for i in members], batch_tokens)
        ]
        for indices, (images, pixels) in zip(batches, pictures(subject, samples, batches), strict=True):
            with naming(samples, indices):
                batch = subject.assemble([rows[i] for i in indices], images, chat, pixels)
            yield indices, batch


def pictures(
    subject: Subject, samples: Sequence[Sample], batches: Sequence[Sequence[int]]
) -> Iterator[tuple[list[Image | None], Any]]:
    """Yield the images of each batch, and what the model's processor makes of them.

    Where the job has several threads, they read the pictures of the next batches meanwhile.
    """

    def read(indices: Sequence[int]) -> tuple[list[Image | None], Any]:
        images = [samples[i].open_image() for i in indices]
        shown = [image for image in images if image is not None]
        # What cannot be read is named where the batch is assembled.
        with suppress(Exception):
            return images, subject.read(shown) if shown else None
        return images, None

    workers = torch.get_num_threads()
    if workers == 1:
        yield from map(read, batches)
        return
    pool, ahead = ThreadPoolExecutor(workers, "pictures"), deque[Future]()
    try:
        for indices in batches:
            ahead.append(pool.submit(read, indices))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

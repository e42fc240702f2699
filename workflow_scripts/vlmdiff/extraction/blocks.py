"""From a model and a block of samples to a shard of residuals."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlmdiff.activations.format import ShardContent, ShardHeader, Storage
from vlmdiff.activations.massive import above, data_tokens, norm_multiples
from vlmdiff.activations.precision import TORCH, to_storage
from vlmdiff.activations.tokens import TOKEN_TYPES
from vlmdiff.activations.writer import ShardWriter, shard_writer
from vlmdiff.config.defaults import MASSIVE_RATIO
from vlmdiff.data.batching import prepare_batches, sample_lengths
from vlmdiff.data.samples import DataError, Sample, dataset_fingerprint, load_samples
from vlmdiff.extraction.left_out import LeftOut, write_part
from vlmdiff.runtime.progress import progress

if TYPE_CHECKING:
    from vlmdiff.models.batch import Batch
    from vlmdiff.models.subject import Subject

WINDOW_BYTES = 2**29
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeping:
    """What is kept of a forward pass.

    Attributes:
        storage: 16-bit type.
        token_types: types of the tokens that are stored; the first token, BOS and padding never are.
        massive_ratio: multiple of its sample's median norm above which a token is massive; 0: none is.
    """

    storage: Storage = "float16"
    token_types: tuple[str, ...] = ("image", "text")
    massive_ratio: float = MASSIVE_RATIO

    def data(self, token_type: Tensor) -> Tensor:
        """Mark the tokens (samples, sequence) that are stored."""
        return data_tokens(token_type, [TOKEN_TYPES[name] for name in self.token_types])


@dataclass(frozen=True)
class Captured:
    """One sample's stored tokens: residuals and marks of massive tokens by layer, the rest (tokens,)."""

    residual: dict[int, np.ndarray]
    massive: dict[int, np.ndarray]
    token_id: np.ndarray
    position: np.ndarray
    token_type: np.ndarray


def extract_block(
    subject: Subject,
    samples: Sequence[Sample],
    path: str | Path,
    *,
    dataset: str,
    block: int,
    shard_samples: int,
    layers: Sequence[int],
    storage: Storage = "float16",
    batch_tokens: int = 8192,
    token_types: Sequence[str] = ("image", "text"),
    massive_ratio: float = MASSIVE_RATIO,
    left_out: str | Path | None = None,
) -> None:
    """Capture the residual stream of one block of samples and write it as a shard.

    Samples are run in batches of similar length and written in their own order; the first token, BOS and
    padding are dropped; no logits are computed and no block after the last layer runs.

    Args:
        subject: the model.
        samples: all samples of the data set.
        path: shard to write.
        dataset: name of the data set.
        block: index of the block.
        shard_samples: samples of a block.
        layers: decoder blocks whose output is stored.
        storage: 16-bit type.
        batch_tokens: most tokens of a forward pass, padding included.
        token_types: types of the tokens that are stored; the first one, BOS and padding never are.
        massive_ratio: see `Keeping`.
        left_out: where to write the table LEFT_OUT_PARTS.

    Raises:
        DataError: the block holds no samples.
        SubjectError: the model does not have one of the layers.
        ShardError: a residual does not fit into `storage`.
    """
    subject.check_layers(layers)
    chosen = block_samples(samples, block, shard_samples)
    header = ShardHeader(
        model=subject.name,
        dataset=dataset,
        model_fingerprint=subject.fingerprint,
        dataset_fingerprint=dataset_fingerprint(samples),
        block=block,
        d_model=subject.d_model,
        layers=tuple(sorted(set(layers))),
        dtype=storage,
        token_types=tuple(sorted(token_types)),
        massive_ratio=float(massive_ratio),
    )
    with shard_writer(path, header) as writer:
        found = write_samples(subject, chosen, writer, batch_tokens)
        tokens = writer.offsets[-1]
    found.tell(f"model '{subject.name}' on '{dataset}'")
    if left_out is not None:
        write_part(found, subject.tokenizer, left_out)
    log.info("%s: %d samples, %d tokens, layers %s", path, len(chosen), tokens, list(header.layers))


def first_samples(samples_file: str | Path, expected: int, fewer: bool = False) -> list[Sample]:
    """Read the first `expected` samples of a data set.

    Args:
        samples_file: samples.jsonl.
        expected: how many samples the config asks for.
        fewer: take what there is, because samples without an image were left out.

    Raises:
        DataError: the data set is not valid or has fewer samples.
    """
    samples = load_samples(samples_file, limit=expected)
    if len(samples) < expected and not fewer:
        raise DataError(
            f"{samples_file}: found {len(samples)} samples, but the config asks for {expected}; lower the "
            "data set's `samples` in the config"
        )
    return samples


def block_samples(samples: Sequence[Sample], block: int, shard_samples: int) -> Sequence[Sample]:
    """Return the samples of a block.

    Raises:
        DataError: there are none.
    """
    chosen = samples[block * shard_samples : (block + 1) * shard_samples]
    if not chosen:
        raise DataError(
            f"block {block} of {shard_samples} samples is empty: the data set has {len(samples)} samples; "
            "lower the data set's `samples` in the config"
        )
    return chosen


def write_samples(
    subject: Subject, samples: Sequence[Sample], writer: ShardWriter, batch_tokens: int
) -> LeftOut:
    """Capture samples window by window, so that memory stays bounded whatever the block's size.

    Returns:
        What was left out.
    """
    found, lengths, layers = LeftOut(), sample_lengths(subject, samples), writer.header.layers
    keeping = Keeping(writer.header.dtype, writer.header.token_types, writer.header.massive_ratio)
    most = max(batch_tokens, WINDOW_BYTES // (2 * subject.d_model * len(layers)))
    for window in progress(windows(lengths, most), "windows of samples"):
        members = [samples[i] for i in window]
        captured = capture_samples(subject, members, layers, keeping, batch_tokens, found)
        writer.append(shard_content(captured, members))
    return found


def windows(lengths: Sequence[int], most: int) -> list[range]:
    """Cut samples, in order, into runs of at most `most` tokens, at least one sample each."""
    runs, start, total = [], 0, 0
    for index, length in enumerate(lengths):
        if total + length > most and index > start:
            runs.append(range(start, index))
            start, total = index, 0
        total += length
    return [*runs, range(start, len(lengths))]


def capture_samples(
    subject: Subject,
    samples: Sequence[Sample],
    layers: Sequence[int],
    keeping: Keeping,
    batch_tokens: int,
    found: LeftOut,
) -> list[Captured]:
    """Run samples in batches of similar length; return what is stored of each, in their order.

    What is left out is added to `found`.
    """
    captured: dict[int, Captured] = {}
    batches = prepare_batches(subject, samples, batch_tokens)
    with torch.inference_mode():
        for indices, batch in progress(batches, "batches"):
            kept = capture_batch(subject, batch, layers, keeping, found)
            captured.update(zip(indices, kept, strict=True))
    return [captured[index] for index in range(len(samples))]


def capture_batch(
    subject: Subject, batch: Batch, layers: Sequence[int], keeping: Keeping, found: LeftOut
) -> Iterator[Captured]:
    """Run a batch and yield its samples, only the tokens that are data."""
    mask = keeping.data(batch.token_type)
    counts, places = mask.sum(1).tolist(), mask.flatten().nonzero()[:, 0]
    # Blocks run in their order.
    order, massive = iter(sorted(set(layers))), {}

    def keep(residual: Tensor) -> Tensor:
        # As soon as the block has run: 16 bits, and no padding. One transfer a layer, not one a sample.
        layer, own = next(order), mask.to(residual.device)
        multiples = norm_multiples(residual, batch.token_type)
        marked = own & above(multiples, keeping.massive_ratio)
        found.add(layer, residual, batch, multiples, own & ~marked, marked)
        massive[layer] = marked[own].cpu().numpy()
        # A massive token may not fit into 16 bits.
        rounded = residual.masked_fill(marked[..., None], 0.0).flatten(0, 1).to(TORCH[keeping.storage])
        return rounded.index_select(0, places.to(residual.device))

    residuals = subject.residuals(batch, layers, keep=keep)
    values = {layer: to_storage(residual, keeping.storage) for layer, residual in residuals.items()}
    token_id = batch.input_ids[mask].int().cpu().numpy()
    token_type = batch.token_type[mask].cpu().numpy()
    position = mask.nonzero()[:, 1].int().cpu().numpy()
    for stop, count in zip(np.cumsum(counts), counts, strict=True):
        rows = slice(stop - count, stop)
        yield Captured(
            {layer: value[rows] for layer, value in values.items()},
            {layer: marks[rows] for layer, marks in massive.items()},
            token_id[rows],
            position[rows],
            token_type[rows],
        )


def shard_content(captured: Sequence[Captured], samples: Sequence[Sample]) -> ShardContent:
    """Put samples one after the other."""
    counts = [len(one.token_id) for one in captured]
    return ShardContent(
        residual={
            layer: np.concatenate([one.residual[layer] for one in captured]) for layer in captured[0].residual
        },
        massive={
            layer: np.concatenate([one.massive[layer] for one in captured]) for layer in captured[0].massive
        },
        token_id=np.concatenate([one.token_id for one in captured]),
        position=np.concatenate([one.position for one in captured]),
        token_type=np.concatenate([one.token_type for one in captured]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sample_id=[sample.sample_id for sample in samples],
        group=[sample.group for sample in samples],
    )

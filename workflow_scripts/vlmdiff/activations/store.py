"""One layer's residuals over all shards of a model and data set: in order, or shuffled for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, UInt8
from torch import Tensor

from vlmdiff.activations.format import STORED, ShardError, ShardHeader, remake, rows_per_chunk
from vlmdiff.activations.precision import as_stored, from_storage
from vlmdiff.activations.shards import Shard, open_shard
from vlmdiff.activations.shuffling import ALONE, Share, ShuffledStream
from vlmdiff.activations.slabs import Slab, Windows, group_slabs
from vlmdiff.activations.tokens import type_codes

BUFFER_BYTES = 2**30
# Small enough that a buffer holds windows of many samples, large enough to be read at the speed of the disk.
WINDOWS_PER_CHUNK = 4


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one shard, in order.

    Attributes:
        values: (tokens, d_model) residuals.
        token_type: (tokens,) codes of `vlmdiff.activations.tokens`.
        token_id: (tokens,) token in the model's vocabulary.
        position: (tokens,) position in the model's sequence.
        sample: (tokens,) index of the sample in `ActivationStore.sample_ids`.
    """

    values: Float32[Tensor, "tokens d_model"]
    token_type: UInt8[Tensor, " tokens"]
    token_id: Int32[Tensor, " tokens"]
    position: Int32[Tensor, " tokens"]
    sample: Int64[Tensor, " tokens"]


class ActivationStore:
    """One layer over the shards of one (model, data set).

    Attributes:
        d_model: residual width.
        n_samples: samples over all shards.
        sample_ids: names of the samples, in order.
        groups: groups of the samples, in order.
        token_types: types of the tokens that are stored.
        models: whose residuals of a token lie side by side.
    """

    models = 1

    def __init__(
        self,
        paths: Sequence[str | Path],
        layer: int,
        buffer_bytes: int = BUFFER_BYTES,
        share: Share = ALONE,
    ) -> None:
        """Open and check all shards; reads the layer once to compare checksums.

        Args:
            paths: all shards of one model and data set.
            layer: decoder block.
            buffer_bytes: tokens of about this size are shuffled together; a selection that fits stays in
                memory.
            share: of processes that train together each compares the checksums of its share of the shards.

        Raises:
            ShardError: no shards, shards that do not belong together, or a shard that is damaged.
        """
        self.layer, self.buffer_bytes = layer, buffer_bytes
        self.shards = sorted((open_shard(path) for path in paths), key=lambda shard: shard.header.block)
        check_together(self.shards)
        for shard in self.shards[share.process :: share.of]:
            shard.verify((layer,))
        self.massive = [shard.massive(layer) for shard in self.shards]
        self.d_model: int = self.shards[0].header.d_model
        self.sample_ids = [name for shard in self.shards for name in shard.sample_id]
        self.token_types: tuple[str, ...] = self.shards[0].header.token_types
        self.groups = [group for shard in self.shards for group in shard.group]
        self.n_samples = len(self.sample_ids)

    def n_tokens(self, token_types: Sequence[str]) -> int:
        """Return how many tokens of the given types there are, massive ones not among them."""
        return int(sum(mask.sum() for mask in self._masks(token_types)))

    def chunks(
        self, token_types: Sequence[str] = ("text", "image"), max_tokens: int = 8192
    ) -> Iterator[Chunk]:
        """Yield the tokens of the given types in the order of samples, `max_tokens` at once, then the rest.

        A sample's tokens may lie in two chunks. Chunks run over the ends of shards: what they hold, and so
        every sum over them, does not depend on where the shards are cut.
        """
        first_sample = np.cumsum([0, *(len(shard.sample_id) for shard in self.shards)])
        for slabs in group_slabs(self._masks(token_types), max_tokens):
            places = [(self.shards[slab.shard], slab.rows) for slab in slabs]
            firsts = first_sample[[slab.shard for slab in slabs]]
            sample = [
                np.searchsorted(shard.offsets, rows, side="right") - 1 + first
                for (shard, rows), first in zip(places, firsts, strict=True)
            ]
            yield Chunk(
                from_storage(self._stored(slabs, sum(len(rows) for _, rows in places))),
                *(
                    torch.from_numpy(concatenated([getattr(shard, name)[rows] for shard, rows in places]))
                    for name in ("token_type", "token_id", "position")
                ),
                torch.from_numpy(concatenated(sample)),
            )

    def stored_batches(
        self,
        token_types: Sequence[str],
        batch_tokens: int,
        seed: int,
        start_step: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Float[Tensor, "tokens d_model"]]:
        """Yield full batches of shuffled tokens, in 16 bits, without end, each token once an epoch.

        Batch `i` is the same whatever `start_step` is and wherever samples are cut into shards; it
        depends on `seed` and `buffer_bytes`. Batches run over the ends of epochs.

        Args:
            token_types: which tokens.
            batch_tokens: rows of a batch.
            seed: determines the order.
            start_step: index of the first batch, to continue an interrupted training.
            share: which rows of each batch are wanted; little more than these is read.

        Raises:
            ShardError: there is no token of these types.
        """
        length = max(1, rows_per_chunk(self.d_model) // WINDOWS_PER_CHUNK)
        windows = Windows(list(self._masks(token_types)), length)
        if not (total := int(windows.sizes.sum())):
            raise ShardError(
                f"{self.shards[0].path} and its neighbours hold no tokens of the types {list(token_types)}"
            )

        def fill(members: np.ndarray) -> np.ndarray:
            return self._stored(windows.slabs(members), int(windows.sizes[members].sum()))

        buffers = -(-total * 2 * self.d_model // self.buffer_bytes)
        stream = ShuffledStream(windows.sizes, fill, seed, buffers)
        start_row = start_step * batch_tokens
        return (as_stored(rows) for rows in stream.batches(batch_tokens, start_row, share))

    def batches(
        self,
        token_types: Sequence[str],
        batch_tokens: int,
        seed: int,
        start_step: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Float32[Tensor, "tokens d_model"]]:
        """Yield in float32 what `stored_batches` yields."""
        rounded = self.stored_batches(token_types, batch_tokens, seed, start_step, share)
        return (rows.float() for rows in rounded)

    def _masks(self, token_types: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield, for each shard, which tokens are of the given types and not massive."""
        codes = self._codes(token_types)
        for shard, massive in zip(self.shards, self.massive, strict=True):
            yield np.isin(shard.token_type, codes) & ~massive

    def _codes(self, token_types: Sequence[str]) -> np.ndarray:
        """Return the codes of token types.

        Raises:
            ShardError: tokens of a type were not stored.
        """
        if absent := sorted(set(token_types) - set(self.token_types)):
            raise ShardError(
                f"{self.shards[0].path}: tokens of the types {absent} were not stored, only "
                f"{list(self.token_types)}; run snakemake again, which stores what the config needs"
            )
        return type_codes(token_types)

    def _stored(self, slabs: Sequence[Slab], total: int) -> np.ndarray:
        """Return the `total` selected rows of slabs in the order of shards; every shard is opened once."""
        header, done = self.shards[0].header, 0
        values = np.empty((total, header.d_model), STORED[header.dtype])
        for shard, members in groupby(slabs, key=lambda slab: slab.shard):
            with self.shards[shard].rows(self.layer) as read:
                for slab in members:
                    size = int(np.count_nonzero(slab.chosen))
                    slab.read(read, rows_per_chunk(header.d_model), values[done : done + size])
                    done += size
        return values


def concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Put arrays one after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_together(shards: Sequence[Shard]) -> None:
    """Refuse shards of different models, data sets or formats, and a series with gaps."""
    if not shards:
        raise ShardError("no activation shards were given; expected all shards of one model and data set")
    first = shards[0]
    own = ("block", "layers")
    same = [field.name for field in fields(ShardHeader) if field.name not in own]
    for shard in shards[1:]:
        differing = [key for key in same if getattr(shard.header, key) != getattr(first.header, key)]
        if differing:
            raise remake(shard.path, f"{differing} differ from {first.path}; shards of one series must agree")
    blocks = [shard.header.block for shard in shards]
    if blocks != list(range(len(blocks))):
        raise ShardError(
            f"{first.path.parent}: found blocks {blocks}, expected 0 to {len(blocks) - 1} once each"
        )

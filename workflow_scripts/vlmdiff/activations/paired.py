"""What two models hold of the same text tokens, side by side: what a crosscoder reads (arXiv 2504.02922).

One model reads texts, the other one perhaps images too. Their text tokens are paired sample by sample; tokens
that only one of them is shown (of its prompt format, of images) have no partner and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from vlmdiff.activations.format import ShardError
from vlmdiff.activations.shards import read_header, reading
from vlmdiff.activations.shuffling import ALONE, Share
from vlmdiff.activations.slabs import Slab
from vlmdiff.activations.store import BUFFER_BYTES, ActivationStore
from vlmdiff.activations.tokens import type_codes

# Of the text tokens of the model that has more of them, fewer pairs than this mean that texts differ.
LEAST_PAIRED = 0.5
UNPAIRED = -1


def open_store(
    paths: Sequence[str | Path], layer: int, buffer_bytes: int = BUFFER_BYTES, share: Share = ALONE
) -> ActivationStore:
    """Open the shards of one model, or of two whose text tokens are paired; the first path is of the first.

    Args:
        paths, layer, buffer_bytes, share: as of `ActivationStore`.

    Raises:
        ShardError: as of `ActivationStore` and `PairedStore`, or shards of more than two models.
    """
    by_model: dict[str, list[str | Path]] = {}
    for path in paths:
        with reading(Path(path)) as file:
            by_model.setdefault(read_header(file, Path(path)).model, []).append(path)
    series = list(by_model.values())
    if len(series) > 2:
        raise ShardError(
            f"{Path(paths[0]).parent}: found shards of the models {list(by_model)}, expected one or two"
        )
    if len(series) < 2:
        return ActivationStore(paths, layer, buffer_bytes, share)
    return PairedStore(*series, layer, buffer_bytes, share)


class PairedStore(ActivationStore):
    """One layer over two models shown the same samples: a token's residuals of the first, then of the second.

    Tokens, positions and types are those of the second model. A token that is massive in either model is
    left out.

    Attributes:
        d_model: both widths together; columns from `width` on are the second model's.
        width: residual width of one model.
    """

    models = 2

    def __init__(
        self,
        before: Sequence[str | Path],
        after: Sequence[str | Path],
        layer: int,
        buffer_bytes: int = BUFFER_BYTES,
        share: Share = ALONE,
    ) -> None:
        """Open both series and pair their text tokens.

        Args:
            before, after: shards of the first and of the second model on one data set.
            layer, buffer_bytes, share: as of `ActivationStore`.

        Raises:
            ShardError: as there; or the series are of other samples, texts, widths or number formats.
        """
        super().__init__(after, layer, buffer_bytes, share)
        self.before = ActivationStore(before, layer, buffer_bytes, share)
        check_series(self.before, self)
        self.width, self.d_model, self.token_types = self.d_model, 2 * self.d_model, ("text",)
        partners = paired_rows(self.before, self)
        self.firsts = row_starts(self)
        self.partners = without_massive(partners, self.before, self)

    def _masks(self, token_types: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield, for each shard of the second model, which tokens have a partner."""
        self._codes(token_types)
        for first, last in pairwise(self.firsts):
            yield self.partners[first:last] != UNPAIRED

    def _stored(self, slabs: Sequence[Slab], total: int) -> np.ndarray:
        """Return the selected rows of the second model after those of the first, side by side."""
        rows = [self.partners[self.firsts[slab.shard] + slab.rows] for slab in slabs]
        of_first = [slab for one in rows for slab in slabs_of(one, row_starts(self.before))]
        return np.hstack([self.before._stored(of_first, total), super()._stored(slabs, total)])


def row_starts(store: ActivationStore) -> Int64[np.ndarray, " shards_and_1"]:
    """Return the first row of each shard in its series, then the number of rows."""
    return np.cumsum([0, *(shard.n_tokens for shard in store.shards)])


def slabs_of(rows: Int64[np.ndarray, " selected"], starts: Int64[np.ndarray, " shards_and_1"]) -> list[Slab]:
    """Return what to read for some rows of a series, which rise."""
    shards = np.searchsorted(starts, rows, side="right") - 1
    slabs = []
    for shard in np.unique(shards):
        own = rows[shards == shard] - starts[shard]
        chosen = np.zeros(own[-1] - own[0] + 1, bool)
        chosen[own - own[0]] = True
        slabs.append(Slab(int(shard), int(own[0]), chosen))
    return slabs


def check_series(before: ActivationStore, after: ActivationStore) -> None:
    """Refuse series whose samples, widths or number formats differ.

    Raises:
        ShardError: naming what differs and what to do.
    """
    one, two = before.shards[0], after.shards[0]
    for name in ("dataset", "dataset_fingerprint", "d_model", "dtype"):
        found, expected = getattr(one.header, name), getattr(two.header, name)
        if found != expected:
            raise ShardError(
                f"{one.path}: {name} is {found!r}, but {expected!r} in {two.path}; two models are paired on "
                "one data set, with residuals of one width and storage: name other models, or run snakemake "
                "again"
            )
    if before.sample_ids != after.sample_ids:
        raise ShardError(f"{one.path.parent} and {two.path.parent} hold other samples; run snakemake again")


def text_of(store: ActivationStore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the text tokens of a series: their rows, their ids, and where each sample's begin among them."""
    firsts, code = row_starts(store), type_codes(["text"])[0]
    masks = [shard.token_type == code for shard in store.shards]
    rows = np.concatenate([first + np.flatnonzero(mask) for first, mask in zip(firsts, masks, strict=False)])
    ids = np.concatenate([shard.token_id[mask] for shard, mask in zip(store.shards, masks, strict=True)])
    offsets = [first + shard.offsets[:-1] for first, shard in zip(firsts, store.shards, strict=False)]
    return rows, ids, np.searchsorted(rows, np.concatenate([*offsets, firsts[-1:]]))


def paired_rows(before: ActivationStore, after: ActivationStore) -> Int64[np.ndarray, " rows"]:
    """Return for each row of the second series its partner's row in the first, -1 where it has none.

    Raises:
        ShardError: most of a series' texts have no partner.
    """
    (rows, ids, cuts), (other_rows, other_ids, other_cuts) = text_of(before), text_of(after)
    partners = np.full(row_starts(after)[-1], UNPAIRED, np.int64)
    if np.array_equal(cuts, other_cuts) and np.array_equal(ids, other_ids):
        partners[other_rows] = rows
        return partners
    for sample in range(len(cuts) - 1):
        here, there = slice(*cuts[sample : sample + 2]), slice(*other_cuts[sample : sample + 2])
        for one, two, size in common_runs(ids[here], other_ids[there]):
            first, second = cuts[sample] + one, other_cuts[sample] + two
            partners[other_rows[second : second + size]] = rows[first : first + size]
    paired, most = int((partners != UNPAIRED).sum()), max(len(ids), len(other_ids))
    if paired < LEAST_PAIRED * most:
        raise ShardError(
            f"{before.shards[0].path.parent} and {after.shards[0].path.parent}: found {paired} tokens in "
            f"common of {most}, expected at least half: the models were shown other texts, or write them "
            "in other vocabularies; name two models of one tokenizer and prompt format"
        )
    return partners


def common_runs(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (start in the first, start in the second, length) of what two texts have in common, in order."""
    if np.array_equal(first, second):
        yield 0, 0, len(first)
        return
    matcher = SequenceMatcher(None, first.tolist(), second.tolist(), autojunk=False)
    yield from ((block.a, block.b, block.size) for block in matcher.get_matching_blocks() if block.size)


def without_massive(
    partners: Int64[np.ndarray, " rows"], before: ActivationStore, after: ActivationStore
) -> Int64[np.ndarray, " rows"]:
    """Return partners without the tokens that are massive in either model."""
    massive: Bool[np.ndarray, " rows"] = np.concatenate(after.massive)
    of_partner = np.concatenate(before.massive)[np.maximum(partners, 0)] & (partners != UNPAIRED)
    return np.where(massive | of_partner, UNPAIRED, partners)

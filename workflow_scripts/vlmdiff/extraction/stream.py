"""Shuffled activations straight from the model: what a training needs of a store, without a store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from vlmdiff.activations.format import STORED, ShardError, Storage, check_finite
from vlmdiff.activations.precision import as_stored
from vlmdiff.activations.shuffling import ALONE, Share, ShuffledStream
from vlmdiff.activations.tokens import type_codes
from vlmdiff.config.defaults import MASSIVE_RATIO
from vlmdiff.data.batching import alike, naming, prepare_batches
from vlmdiff.data.samples import Sample, dataset_fingerprint
from vlmdiff.extraction.blocks import Keeping, capture_batch, first_samples
from vlmdiff.extraction.left_out import LeftOut
from vlmdiff.models.registry import load_subject

if TYPE_CHECKING:
    from vlmdiff.models.subject import Subject

POOL_SAMPLES = 1024
# As of a store: of several layers that are made in one pass of the model, each has such a buffer.
BUFFER_BYTES = 2**30
# Samples whose token ids are held at once, to count them.
COUNTED_SAMPLES = 1024
log = logging.getLogger(__name__)


class ModelPasses:
    """A model that is shown samples of a data set, for the streams of one layer or of several.

    Values are rounded to 16 bits, as in a store, and the same tokens are left out.

    Args:
        subject: the model.
        samples: the data set.
        storage: 16-bit type to which values are rounded.
        batch_tokens: most tokens of a forward pass, padding included.
        massive_ratio: multiple of its sample's median norm above which a token is massive; 0: none is.
    """

    def __init__(
        self,
        subject: Subject,
        samples: Sequence[Sample],
        *,
        storage: Storage = "float16",
        batch_tokens: int = 8192,
        massive_ratio: float = MASSIVE_RATIO,
    ) -> None:
        self.subject, self.samples, self.storage = subject, list(samples), storage
        self.batch_tokens, self.massive_ratio, self.told = batch_tokens, float(massive_ratio), False
        self.counted: dict[tuple[str, ...], Int64[np.ndarray, " samples"]] = {}

    def token_counts(self, token_types: Sequence[str]) -> Int64[np.ndarray, " samples"]:
        """Return how many tokens of the given types each sample has, without running the model."""
        types = tuple(token_types)
        if types not in self.counted:
            self.counted[types] = self.count_tokens(types)
        return self.counted[types]

    def count_tokens(self, token_types: Sequence[str]) -> Int64[np.ndarray, " samples"]:
        """Count what `token_counts` keeps."""
        codes = type_codes(token_types)
        counts = np.zeros(len(self.samples), np.int64)
        for (_, chat), members in alike(self.samples).items():
            for first in range(0, len(members), COUNTED_SAMPLES):
                some = members[first : first + COUNTED_SAMPLES]
                shown = [self.samples[i] for i in some]
                prompts, sizes = [one.prompt for one in shown], [one.image_size() for one in shown]
                with naming(self.samples, some):
                    found = self.subject.types(prompts, sizes, chat)
                for index, types in zip(some, found, strict=True):
                    # The first token is no data, whatever it is.
                    counts[index] = np.isin(types[1:], codes).sum()
        return counts

    def run(
        self, members: Int64[np.ndarray, " members"], token_types: Sequence[str], layers: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """Return the 16-bit residuals (tokens, d_model) of some samples, in their order, at some layers.

        How many tokens are massive is known only when the model has run, yet a training that goes on must
        skip pools without running them: another token of its sample takes the place of each.

        Args:
            members: which samples.
            token_types: which tokens.
            layers: decoder blocks; those after the last of them do not run.
        """
        counts, left_out = self.token_counts(token_types)[members], LeftOut()
        ends, width = np.cumsum(counts), self.subject.d_model
        values = {layer: np.empty((int(ends[-1]), width), STORED[self.storage]) for layer in layers}
        keeping = Keeping(self.storage, tuple(token_types), self.massive_ratio)
        batches = prepare_batches(self.subject, [self.samples[i] for i in members], self.batch_tokens)
        with torch.inference_mode():
            for indices, batch in batches:
                found = capture_batch(self.subject, batch, layers, keeping, left_out)
                for index, one in zip(indices, found, strict=True):
                    rows = slice(ends[index] - counts[index], ends[index])
                    for layer in layers:
                        values[layer][rows] = without_massive(one.residual[layer], one.massive[layer])
        for layer in layers:
            check_finite(values[layer], layer, self.storage, f"model '{self.subject.name}'")
        if not self.told:
            left_out.tell(f"model '{self.subject.name}', the first {len(members)} samples")
            self.told = True
        return values


# Names a pool, and sorts them: how often batches were asked for, their seed, epoch, number.
Place = tuple[int, int, int, int]
# Makes the values of some layers.
Run = Callable[[Sequence[int]], dict[int, np.ndarray]]


def alone(layer: int, place: Place, run: Run) -> np.ndarray:
    """Make a pool of one layer, which shares the model with no other."""
    return run([layer])[layer]


class ActivationStream:
    """One layer's residuals of a model shown a data set, made when they are needed.

    Samples come in a new random order every epoch. The tokens of a pool of samples are shuffled together;
    pools follow one another.

    Attributes:
        d_model: residual width.
        n_samples: samples of an epoch.
        models: one, as of `ActivationStore`.
    """

    models = 1

    def __init__(
        self,
        passes: ModelPasses,
        layer: int,
        *,
        pool_samples: int = POOL_SAMPLES,
        get: Callable[[int, Place, Run], np.ndarray] = alone,
    ) -> None:
        """Check the layer; nothing runs yet.

        Args:
            passes: the model and what it is shown.
            layer: decoder block; later ones do not run.
            pool_samples: samples whose tokens are shuffled together; fewer where their values would take
                more than 1 GiB.
            get: returns the values of a pool, given its layer, its place, and what makes it.

        Raises:
            SubjectError: the model does not have the layer.
        """
        passes.subject.check_layers([layer])
        self.passes, self.layer, self.pool_samples, self.get = passes, layer, pool_samples, get
        self.d_model: int = passes.subject.d_model
        self.n_samples, self.asked = len(passes.samples), 0

    def fingerprint(self) -> str:
        """Digest all that the values depend on: model, data set, layer, rounding, pools."""
        passes = self.passes
        parts = [passes.subject.fingerprint, dataset_fingerprint(passes.samples), self.layer, passes.storage]
        parts += [self.pool_samples, passes.massive_ratio]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def token_counts(self, token_types: Sequence[str]) -> Int64[np.ndarray, " samples"]:
        """Return how many tokens of the given types each sample has, without running the model."""
        return self.passes.token_counts(token_types)

    def stored_batches(
        self,
        token_types: Sequence[str],
        batch_tokens: int,
        seed: int,
        start_step: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Float[Tensor, "tokens d_model"]]:
        """Yield full batches of shuffled tokens, in 16 bits, without end, each token once an epoch.

        Batch `i` is the same whatever `start_step` is: pools before it are counted, not run.

        Args:
            token_types: which tokens.
            batch_tokens: rows of a batch.
            seed: determines the order.
            start_step: index of the first batch, to continue an interrupted training.
            share: which rows of each batch are wanted; only samples with such rows are run.

        Raises:
            ShardError: there is no token of these types, or a value does not fit into 16 bits.
        """
        counts = self.token_counts(token_types)
        if not (total := int(counts.sum())):
            raise ShardError(f"the data set has no tokens of the types {list(token_types)}")
        self.asked += 1
        asked = self.asked

        def fill(members: np.ndarray) -> np.ndarray:
            place = (asked, seed, *stream.place)
            return self.get(self.layer, place, lambda layers: self.passes.run(members, token_types, layers))

        pools = max(-(-self.n_samples // self.pool_samples), -(-total * 2 * self.d_model // BUFFER_BYTES))
        stream = ShuffledStream(counts, fill, seed, pools)
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


def without_massive(values: np.ndarray, massive: np.ndarray) -> np.ndarray:
    """Return a sample's rows (tokens, d_model) with others, evenly spread, in the places of the massive ones.

    At most half of the tokens of a type are massive, so that there are others.
    """
    others, missing = np.flatnonzero(~massive), int(massive.sum())
    taken = np.arange(len(values))
    taken[massive] = others[np.arange(missing) * len(others) // max(missing, 1)]
    return values[taken]


def open_passes(
    model_config: str | Path, samples_file: str | Path, settings: Mapping[str, Any]
) -> ModelPasses:
    """Load a model and a data set for streaming.

    Args:
        model_config: config.json of the checkpoint.
        samples_file: samples.jsonl.
        settings: `name` and `subject` of the model, `samples` and `fewer` as for `first_samples`,
            `storage`, `batch_tokens` and `massive_ratio` as for `ModelPasses`.
    """
    subject = load_subject(settings["name"], settings["subject"], Path(model_config).parent)
    samples = first_samples(samples_file, settings["samples"], settings["fewer"])
    chosen = {key: settings[key] for key in ("storage", "batch_tokens", "massive_ratio")}
    return ModelPasses(subject, samples, **chosen)

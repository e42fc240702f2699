"""Shuffled activations straight from the model: what a training needs of a store, without a store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from vlmdiff.activations.format import ShardError, Storage, check_finite
from vlmdiff.activations.precision import from_storage
from vlmdiff.activations.tokens import TOKEN_TYPES
from vlmdiff.data.batching import alike
from vlmdiff.data.samples import Sample, dataset_fingerprint
from vlmdiff.extraction.blocks import capture_samples, first_samples
from vlmdiff.models.registry import load_subject

if TYPE_CHECKING:
    from vlmdiff.models.subject import Subject

POOL_SAMPLES = 512
log = logging.getLogger(__name__)


class ActivationStream:
    """One layer's residuals of a model shown a data set, made when they are needed.

    Samples come in a new random order every epoch. Those of a pool are run together and their tokens
    shuffled; pools follow one another. Values are rounded to 16 bits, as in a store.

    Attributes:
        d_model: residual width.
        n_samples: samples of an epoch.
    """

    def __init__(
        self,
        subject: Subject,
        samples: Sequence[Sample],
        layer: int,
        *,
        storage: Storage = "float16",
        batch_tokens: int = 8192,
        pool_samples: int = POOL_SAMPLES,
    ) -> None:
        """Check the layer; nothing runs yet.

        Args:
            subject: the model.
            samples: the data set.
            layer: decoder block; later ones do not run.
            storage: 16-bit type to which values are rounded.
            batch_tokens: most tokens of a forward pass, padding included.
            pool_samples: samples whose tokens are shuffled together.

        Raises:
            SubjectError: the model does not have the layer.
        """
        subject.check_layers([layer])
        self.subject, self.samples, self.layer = subject, list(samples), layer
        self.storage, self.batch_tokens, self.pool_samples = storage, batch_tokens, pool_samples
        self.d_model: int = subject.d_model
        self.n_samples = len(self.samples)

    def fingerprint(self) -> str:
        """Digest all that the values depend on: model, data set, layer, rounding, pools."""
        parts = [self.subject.fingerprint, dataset_fingerprint(self.samples), self.layer, self.storage]
        return hashlib.sha256(repr([*parts, self.pool_samples]).encode()).hexdigest()

    def token_counts(self, token_types: Sequence[str]) -> list[int]:
        """Return how many tokens of the given types each sample has, without running the model."""
        codes = {TOKEN_TYPES[name] for name in token_types}
        counts = [0] * self.n_samples
        for (_, chat), members in alike(self.samples).items():
            prompts = [self.samples[i].prompt for i in members]
            sizes = [self.samples[i].image_size() for i in members]
            for index, types in zip(members, self.subject.types(prompts, sizes, chat), strict=True):
                counts[index] = sum(one in codes for one in types)
        return counts

    def batches(
        self, token_types: Sequence[str], batch_tokens: int, seed: int, start_step: int = 0
    ) -> Iterator[Float32[Tensor, "batch_tokens d_model"]]:
        """Yield full batches of shuffled tokens without end, each token once an epoch.

        Batch `i` is the same whatever `start_step` is: pools before it are counted, not run.

        Args:
            token_types: which tokens.
            batch_tokens: rows of a batch.
            seed: determines the order.
            start_step: index of the first batch, to continue an interrupted training.

        Raises:
            ShardError: there is no token of these types, or a value does not fit into 16 bits.
        """
        counts = self.token_counts(token_types)
        if not sum(counts):
            raise ShardError(f"the data set has no tokens of the types {list(token_types)}")
        rows, waiting = [], 0
        for pool in self.pools(token_types, counts, seed, start_step * batch_tokens):
            rows.append(pool)
            waiting += len(pool)
            while waiting >= batch_tokens:
                joined = np.concatenate(rows)
                yield from_storage(joined[:batch_tokens])
                rows, waiting = [joined[batch_tokens:]], waiting - batch_tokens

    def pools(
        self, token_types: Sequence[str], counts: Sequence[int], seed: int, skipped: int
    ) -> Iterator[np.ndarray]:
        """Yield the shuffled tokens of one pool after the other, without the first `skipped` tokens."""
        epoch, skipped = divmod(skipped, sum(counts))
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(self.n_samples)
            cuts = [order[i : i + self.pool_samples] for i in range(0, len(order), self.pool_samples)]
            ends = list(accumulate(sum(counts[i] for i in cut) for cut in cuts))
            for number, (cut, end) in enumerate(zip(cuts, ends, strict=True)):
                start = ends[number - 1] if number else 0
                if end > skipped:
                    rows = self.run([self.samples[i] for i in cut], token_types)
                    turn = np.random.default_rng([seed, epoch, number]).permutation(len(rows))
                    yield rows[turn][max(0, skipped - start) :]
            epoch, skipped = epoch + 1, 0

    def run(self, samples: Sequence[Sample], token_types: Sequence[str]) -> np.ndarray:
        """Return the 16-bit residuals (tokens, d_model) of samples, in their order."""
        captured = capture_samples(
            self.subject, samples, [self.layer], self.storage, self.batch_tokens, token_types
        )
        values = np.concatenate([one.residual[self.layer] for one in captured])
        check_finite(values, self.layer, self.storage, f"model '{self.subject.name}'")
        return values


def open_stream(
    model_config: str | Path, samples_file: str | Path, layer: int, settings: Mapping[str, Any]
) -> ActivationStream:
    """Load a model and a data set for streaming.

    Args:
        model_config: config.json of the checkpoint.
        samples_file: samples.jsonl.
        layer: decoder block.
        settings: `name` and `subject` of the model, `samples` and `fewer` as for `first_samples`,
            `storage` and `batch_tokens` as for `ActivationStream`.
    """
    subject = load_subject(settings["name"], settings["subject"], Path(model_config).parent)
    samples = first_samples(samples_file, settings["samples"], settings["fewer"])
    rounding = {key: settings[key] for key in ("storage", "batch_tokens")}
    return ActivationStream(subject, samples, layer, **rounding)

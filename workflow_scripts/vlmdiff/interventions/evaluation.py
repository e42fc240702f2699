"""Answer the same questions many times under different interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample
from vlmdiff.interventions.answers import Answers, ChoiceScorer
from vlmdiff.interventions.restart import restart
from vlmdiff.models.batch import Batch
from vlmdiff.models.prefix import Prefix, trusted_prefix
from vlmdiff.models.subject import Subject

CACHE_BYTES = 2 * 1024**3  # of one data set on a CPU
# Share of a batch's tokens that must stand before the first edited one to be worth remembering.
WORTHWHILE = 0.25


class Intervention(Protocol):
    """Edits what blocks of a model compute at some tokens."""

    @property
    def first_block(self) -> int:
        """First block that it touches; 0 if it touches none."""

    def tokens(self, batch: Batch) -> Bool[Tensor, "samples sequence"]:
        """Mark the tokens of a batch that it edits."""

    def at(self, where: Bool[Tensor, "samples tokens"]) -> AbstractContextManager:
        """Open it for a run of some last tokens of a batch, of which those that are marked are edited."""


class Evaluation:
    """A data set ready to be answered under dozens of interventions.

    Prompts are tokenised and images encoded once. What no intervention can change is remembered:

    - The residual streams that enter the blocks, so that an intervention that begins in block `l` skips the
      blocks before it. If not all streams fit into `cache_bytes`, those of evenly spaced blocks are kept, and
      a run begins at the last of them before the intervention.
    - Keys and values of the tokens before the first that is edited, where these are many, the model reads
      from left to right and there is memory left. Only the tokens from there on run again.

    Answers are those of whole runs, up to rounding where a prefix is known: 1e-7 logits in float32.
    """

    def __init__(
        self, subject: Subject, samples: Sequence[Sample], batch_tokens: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Tokenise the samples and compute the residual streams of the clean model.

        Args:
            subject: the model.
            samples: multiple-choice questions.
            batch_tokens: most tokens in one forward pass, padding included.
            cache_bytes: memory that embeddings, residual streams, keys and values may take.

        Raises:
            AnswerError: a sample cannot be scored.
        """
        self.subject = subject
        self.samples = list(samples)
        self.scorer = ChoiceScorer(subject.tokenizer, self.samples)
        prepared = prepare_batches(subject, self.samples, batch_tokens)
        self.batches = [(indices, with_images_at(batch, "cpu")) for indices, batch in prepared]
        one = self._stream_bytes()
        self.kept = spaced_from_first(min(subject.n_layers, cache_bytes // one), subject.n_layers)
        self.spare = cache_bytes - len(self.kept) * one
        self.prefixes: dict[tuple[int, int], Prefix | None] = {}
        with torch.no_grad():
            self.entering = [self._streams(batch) for _, batch in self.batches]

    def _stream_bytes(self) -> int:
        """Return the memory that what enters one block takes."""
        tokens = sum(batch.input_ids.numel() for _, batch in self.batches)
        return max(1, tokens * self.subject.d_model * self.subject.model.dtype.itemsize)

    def _streams(self, batch: Batch) -> dict[int, Tensor]:
        """Return the residual streams that enter the kept blocks."""
        return self.subject.entering(self._shown(batch), self.kept) if self.kept else {}

    def _shown(self, batch: Batch) -> Batch:
        """Return a batch with its images where the model is."""
        return with_images_at(batch, self.subject.device)

    def _prefix(self, number: int, where: Bool[Tensor, "samples sequence"]) -> Prefix | None:
        """Return keys and values of the tokens before the first edited one of a batch, if worthwhile."""
        edited = where.any(dim=0)
        length = int(edited.int().argmax()) if edited.any() else 0
        if length < WORTHWHILE * len(edited):
            return None
        key = (number, length)
        if key not in self.prefixes:
            self.prefixes[key] = self._read_prefix(number, length) if self.spare > 0 else None
        return self.prefixes[key]

    def _read_prefix(self, number: int, length: int) -> Prefix | None:
        """Read a prefix and take its memory from what is spare; None if there is none that serves."""
        batch = self._shown(self.batches[number][1])
        prefix = trusted_prefix(self.subject, batch, length, self.subject.final_logits(batch))
        if prefix is None or prefix.nbytes > self.spare:
            self.spare = 0
            return None
        self.spare -= prefix.nbytes
        return prefix

    def _logits(
        self, batch: Batch, streams: Mapping[int, Tensor], intervention: Intervention, prefix: Prefix | None
    ) -> Tensor:
        """Run what an intervention may change of one batch: blocks from the deepest kept one, and tokens."""
        known = 0 if prefix is None else prefix.length
        where = intervention.tokens(batch)[:, known:]
        with ExitStack() as stack:
            embeds = None
            if streams:
                start = max(block for block in streams if block <= intervention.first_block)
                embeds = stack.enter_context(restart(self.subject, start, streams[start][:, known:]))
            stack.enter_context(intervention.at(where))
            past = None if prefix is None else prefix.past()
            return self.subject.final_logits(self._shown(batch), embeds, past)

    @torch.no_grad()
    def answers(self, intervention: Intervention | None = None) -> Answers:
        """Answer all questions, under an intervention if there is one."""
        margin = np.zeros(len(self.samples))
        for number, ((indices, batch), streams) in enumerate(zip(self.batches, self.entering)):
            if intervention is None:
                logits = self.subject.final_logits(self._shown(batch))
            else:
                prefix = self._prefix(number, intervention.tokens(batch))
                logits = self._logits(batch, streams, intervention, prefix)
            margin[indices] = self.scorer.margins(logits, indices).cpu().numpy()
        return Answers(margin)


def spaced_from_first(count: int, total: int) -> list[int]:
    """Return `count` of the numbers below `total`, 0 first, at distances that differ by at most 1."""
    return [i * total // count for i in range(count)]


def with_images_at(batch: Batch, device: str | torch.device) -> Batch:
    """Return a batch with its image features on `device`.

    Between their uses they wait in main memory: those of a thousand images take gigabytes.
    """
    seen = batch.seen
    if seen is None:
        return batch
    deepstack = None if seen.deepstack is None else seen.deepstack.to(device)
    return replace(batch, seen=replace(seen, features=seen.features.to(device), deepstack=deepstack))

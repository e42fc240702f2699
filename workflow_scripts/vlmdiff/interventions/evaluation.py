"""Answer the same questions many times under different interventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample
from vlmdiff.interventions.answers import Answers, ChoiceScorer
from vlmdiff.interventions.restart import restart
from vlmdiff.models.batch import Batch
from vlmdiff.models.subject import Subject

Editor = Callable[[Batch], AbstractContextManager]
CACHE_BYTES = 2 * 1024**3  # of one data set on a CPU
# What a batch computes should stay in a core's cache: 2,048 tokens took two thirds of the time of 8,192.
CPU_BATCH_TOKENS = 2048


def no_edit(_: Batch) -> AbstractContextManager:
    """Leave the model as it is."""
    return nullcontext()


class Evaluation:
    """A data set ready to be answered under dozens of interventions.

    Prompts are tokenised and images encoded once. The residual streams that enter the blocks are
    kept as well, so that an intervention that begins in block `l` skips the blocks before it. If not
    all streams fit into `cache_bytes`, those of evenly spaced blocks are kept, and a run begins at
    the last of them before the intervention; results are the same.
    """

    def __init__(
        self, subject: Subject, samples: Sequence[Sample], batch_tokens: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Tokenise the samples and compute the residual streams of the clean model.

        Args:
            subject: the model.
            samples: multiple-choice questions.
            batch_tokens: most tokens in one forward pass, padding included; a CPU gets at most 2,048.
            cache_bytes: memory that embeddings and residual streams may take.

        Raises:
            AnswerError: a sample cannot be scored.
        """
        self.subject = subject
        self.samples = list(samples)
        self.scorer = ChoiceScorer(subject.tokenizer, self.samples)
        budget = min(batch_tokens, CPU_BATCH_TOKENS) if subject.device.type == "cpu" else batch_tokens
        prepared = prepare_batches(subject, self.samples, budget)
        self.batches = [(indices, with_images_at(batch, "cpu")) for indices, batch in prepared]
        self.kept = self._kept_blocks(cache_bytes)
        with torch.no_grad():
            self.entering = [self._streams(batch) for _, batch in self.batches]

    def _kept_blocks(self, cache_bytes: int) -> list[int]:
        """Return the blocks whose entering residual stream is kept, as many as fit, block 0 first."""
        tokens = sum(batch.input_ids.numel() for _, batch in self.batches)
        one = max(1, tokens * self.subject.d_model * self.subject.model.dtype.itemsize)
        return spaced_from_first(min(self.subject.n_layers, cache_bytes // one), self.subject.n_layers)

    def _streams(self, batch: Batch) -> dict[int, Tensor]:
        """Return the residual streams that enter the kept blocks."""
        return self.subject.entering(self._shown(batch), self.kept) if self.kept else {}

    def _shown(self, batch: Batch) -> Batch:
        """Return a batch with its images where the model is."""
        return with_images_at(batch, self.subject.device)

    def _logits(
        self, batch: Batch, streams: Mapping[int, Tensor], editor: Editor, first_block: int
    ) -> Tensor:
        """Run one batch from the deepest kept block that the intervention leaves alone."""
        with ExitStack() as stack:
            embeds = None
            if streams:
                start = max(block for block in streams if block <= first_block)
                embeds = stack.enter_context(restart(self.subject, start, streams[start]))
            stack.enter_context(editor(batch))
            return self.subject.final_logits(self._shown(batch), embeds=embeds)

    @torch.no_grad()
    def answers(self, editor: Editor = no_edit, first_block: int = 0) -> Answers:
        """Answer all questions under an intervention.

        Args:
            editor: opens the intervention for one batch.
            first_block: first block that the intervention touches; the blocks before it are skipped.
        """
        margin = np.zeros(len(self.samples))
        for (indices, batch), streams in zip(self.batches, self.entering):
            logits = self._logits(batch, streams, editor, first_block)
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

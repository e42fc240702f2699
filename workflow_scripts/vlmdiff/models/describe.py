"""Let a model go on in its own words, up to a word that it must not say."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmdiff.models.batch import Batch, make_batch
from vlmdiff.models.memory import spare_bytes
from vlmdiff.models.prefix import Prefix, trusted_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vlmdiff.models.subject import Subject

PREFIX_ON_CPU = 2 * 2**30  # bytes


def tokens_of_words(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> set[int]:
    """Return every token of the vocabulary that spells one of `words`, blanks and case aside."""
    wanted = {word.lower() for word in words}
    spelled = (
        (tokenizer.convert_tokens_to_string([token]), index) for token, index in tokenizer.get_vocab().items()
    )
    return {index for text, index in spelled if text.strip().lower() in wanted}


def rows_of(batch: Batch) -> list[list[int]]:
    """Return each sample's tokens without padding."""
    return [row[: last + 1] for row, last in zip(batch.input_ids.tolist(), batch.last.tolist(), strict=True)]


def kept_prefix(subject: Subject, batch: Batch, logits: Tensor) -> Prefix | None:
    """Return keys and values of the tokens that every sample of a batch has before its last, if they fit."""
    length = int(batch.last.min())
    most = 2 * subject.n_layers * batch.input_ids.numel() * subject.d_model * subject.model.dtype.itemsize
    if not length or most > spare_bytes(subject.device, on_cpu=PREFIX_ON_CPU):
        return None
    return trusted_prefix(subject, batch, length, logits)


@torch.no_grad()
def describe(subject: Subject, batch: Batch, steps: int, stop: Collection[int]) -> Batch:
    """Append the model's own greedy continuation to each prompt.

    A sample's continuation ends before the first token of `stop`, the end-of-sequence token, or a placeholder
    of an image, which would ask for an image that is not there. Tokens that all prompts of the batch have
    before their last run once, where the model reads from left to right; the others run at each step.

    Args:
        subject: the model.
        batch: prompts.
        steps: most tokens to append.
        stop: tokens that must not be said.

    Returns:
        The longer batch; appended tokens are text.
    """
    stop = {*stop, subject.tokenizer.eos_token_id, subject.image_id}
    rows = rows_of(batch)
    # A document is read as if it were the model's own words; they stay so.
    prompts = (batch.last + 1 - batch.generated).tolist()
    unfinished, prefix = set(range(len(rows))), None
    for step in range(steps):
        logits = subject.final_logits(batch, past=prefix.past() if prefix else None)
        if step == 0 and steps > 1:
            prefix = kept_prefix(subject, batch, logits)
        spoken = logits.argmax(-1).tolist()
        unfinished = {row for row in unfinished if spoken[row] not in stop}
        if not unfinished:
            break
        for row in unfinished:
            rows[row].append(spoken[row])
        own = [len(row) - prompt for row, prompt in zip(rows, prompts, strict=True)]
        marks = (subject.pad_id, subject.bos_id, subject.image_id)
        longer = make_batch(rows, *marks, batch.seen, own, subject.break_ids)
        batch = longer.to(subject.device)
    return batch

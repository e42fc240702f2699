"""Let a model go on in its own words, up to a word that it must not say."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import torch

from vlmdiff.models.batch import Batch, make_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vlmdiff.models.subject import Subject


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


@torch.no_grad()
def describe(subject: Subject, batch: Batch, steps: int, stop: Collection[int]) -> Batch:
    """Append the model's own greedy continuation to each prompt.

    A sample's continuation ends before the first token of `stop`, the end-of-sequence token, or a placeholder
    of an image, which would ask for an image that is not there. The whole sequence is run anew at each step:
    correct for every family, prefix attention included, and cheap for the few words that are asked for.

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
    unfinished = set(range(len(rows)))
    for _ in range(steps):
        spoken = subject.final_logits(batch).argmax(-1).tolist()
        unfinished = {row for row in unfinished if spoken[row] not in stop}
        if not unfinished:
            break
        for row in unfinished:
            rows[row].append(spoken[row])
        own = [len(row) - prompt for row, prompt in zip(rows, prompts, strict=True)]
        longer = make_batch(rows, subject.pad_id, subject.bos_id, subject.image_id, batch.seen, own)
        batch = longer.to(subject.device)
    return batch

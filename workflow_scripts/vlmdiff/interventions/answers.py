"""Score the choices of a multiple-choice question by the logits of their first tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.config.choices import AnswerError, choice_token_ids
from vlmdiff.data.samples import Sample


@dataclass(frozen=True)
class Answers:
    """What a model answered, in the order of the samples.

    Attributes:
        margin: `(n,)`, score of the answer - best score of the other choices, in nats.
    """

    margin: np.ndarray

    @cached_property
    def correct(self) -> np.ndarray:
        """`(n,)` bool: the answer scores above every other choice (a tie is not correct)."""
        return self.margin > 0


def check_question(sample: Sample) -> None:
    """Refuse a sample that cannot be scored.

    Raises:
        AnswerError: naming the sample, what was found and what to do.
    """
    choices = sample.choices or []
    if len(choices) < 2 or sample.answer not in choices:
        raise AnswerError(
            f"sample {sample.sample_id!r}: expected at least two choices with the answer among them; found "
            f"choices {sample.choices}, answer {sample.answer!r}. Correct the line in samples.jsonl, or use "
            "another data set for interventions."
        )


class ChoiceScorer:
    """Token ids of all choices of all samples as one padded table, for scoring whole batches."""

    def __init__(self, tokenizer: Any, samples: Sequence[Sample]) -> None:
        known: dict[tuple[str, ...], list[list[int]]] = {}
        rows = []
        for sample in samples:
            check_question(sample)
            key = tuple(sample.choices)
            if key not in known:
                known[key] = choice_token_ids(tokenizer, key)
            rows.append(known[key])
        n_choices = max((len(row) for row in rows), default=1)
        n_tokens = max((len(ids) for row in rows for ids in row), default=1)
        table = np.full((len(rows), n_choices, n_tokens), -1, dtype=np.int64)
        for i, row in enumerate(rows):
            for j, ids in enumerate(row):
                table[i, j, : len(ids)] = ids
        self.token_ids = torch.from_numpy(table)
        self.answer = torch.tensor(
            [sample.choices.index(sample.answer) for sample in samples], dtype=torch.int64
        )

    def scores(
        self, logits: Float[Tensor, "batch vocab"], indices: Iterable[int]
    ) -> Float[Tensor, "batch choices"]:
        """Return log-sum-exp of each choice's token logits; -inf where a sample has fewer choices."""
        ids = self.token_ids[list(indices)].to(logits.device)
        picked = logits.float().gather(1, ids.clamp(min=0).flatten(1)).view(ids.shape)
        return picked.masked_fill(ids < 0, float("-inf")).logsumexp(dim=-1)

    def margins(
        self, logits: Float[Tensor, "batch vocab"], indices: Sequence[int]
    ) -> Float[Tensor, " batch"]:
        """Return score of the answer - best score of the other choices."""
        scores = self.scores(logits, indices)
        answer = self.answer[list(indices)].to(logits.device)[:, None]
        others = scores.scatter(1, answer, float("-inf"))
        return scores.gather(1, answer)[:, 0] - others.max(dim=1).values

"""Many questions about one image in one sequence: each sees the image and itself alone.

A sequence is the head of the user's turn and the image's tokens, and then the rest of one exchange after the
other. A mask keeps exchanges apart, and positions restart after the image. So each exchange gets what it
would get in a sequence of its own, and the image's tokens are computed once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmdiff.world.language import Exchange
from vlmdiff.world.scenes import COLOURS, SHAPES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = re.compile(rf"\b(?:{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})\b")
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"


@dataclass(frozen=True)
class Packed:
    """Exchanges about several images, a row an image.

    Attributes:
        input_ids: (images, tokens); where the image's tokens are, any.
        positions: (images, tokens), as if each exchange followed the image at once.
        sees: (images, 1, tokens, tokens) bool, True where a token may look.
        weight: (images, tokens), how much the prediction *of* a token counts.
        answer: (images, exchanges), the token that predicts the first token of each answer.
        head: tokens before the image.
        image: tokens of the image.
    """

    input_ids: Tensor
    positions: Tensor
    sees: Tensor
    weight: Tensor
    answer: Tensor
    head: int
    image: int


@dataclass(frozen=True)
class Segment:
    """One exchange as tokens: up to the answer, the answer, and what predicting each of these counts."""

    question: list[int]
    answer: list[int]
    weight: list[float]

    def tokens(self) -> list[int]:
        """Return all of its tokens."""
        return self.question + self.answer


def tokenised(exchange: Exchange, tokenizer: PreTrainedTokenizerBase, binding_weight: float) -> Segment:
    """Tokenise one exchange; its answer weighs one in all, however long it is.

    Args:
        exchange: question and answer.
        tokenizer: of the language model.
        binding_weight: of each shape of the question that follows a colour. Which one it is the image alone
            tells: predicting it teaches what has which colour.
    """

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    closed = exchange.choices is not None
    answer = tokens(exchange.answer if closed else exchange.answer + END)
    asked = exchange.prompt + ASSISTANT
    encoded = tokenizer(asked, add_special_tokens=False, return_offsets_mapping=True)
    named = [found.start("shape") for found in NAME.finditer(asked)]
    bound = [any(start <= place < end for place in named) for start, end in encoded.offset_mapping]
    weight = [binding_weight * one for one in bound] + [1 / len(answer)] * len(answer)
    return Segment(encoded.input_ids, answer, weight)


def pack(
    exchanges: Sequence[Sequence[Exchange]],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: int,
    binding_weight: float = 0.0,
) -> Packed:
    """Put exchanges into sequences.

    Args:
        exchanges: equally many of each image.
        tokenizer: of the language model.
        image_tokens: tokens that stand for an image.
        binding_weight: see `tokenised`.
    """
    head = tokenizer(USER, add_special_tokens=False).input_ids
    prefix = len(head) + image_tokens
    rows = [[tokenised(exchange, tokenizer, binding_weight) for exchange in row] for row in exchanges]
    width = prefix + max(sum(len(one.tokens()) for one in row) for row in rows)
    shape = len(rows), width
    input_ids = torch.full(shape, tokenizer.pad_token_id)
    input_ids[:, : len(head)] = torch.tensor(head)
    positions, weight = torch.arange(width).expand(shape).clone(), torch.zeros(shape)
    # What lies before the exchanges is a segment of its own, which all see; padding is another one.
    segment = torch.full(shape, len(rows[0]) + 1)
    segment[:, :prefix] = 0
    answer = torch.zeros(len(rows), len(rows[0]), dtype=torch.long)
    for i, row in enumerate(rows):
        start = prefix
        for j, one in enumerate(row):
            end = start + len(one.tokens())
            input_ids[i, start:end] = torch.tensor(one.tokens())
            positions[i, start:end] = torch.arange(prefix, prefix + end - start)
            weight[i, start:end] = torch.tensor(one.weight)
            segment[i, start:end] = j + 1
            answer[i, j] = start + len(one.question) - 1
            start = end
    same = segment[:, :, None] == segment[:, None, :]
    shared = (segment == 0)[:, None, :]
    sees = (same | shared) & torch.ones(width, width, dtype=torch.bool).tril()
    return Packed(input_ids, positions, sees[:, None], weight, answer, len(head), image_tokens)

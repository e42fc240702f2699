"""By which tokens the choices of a question are scored: the first ones of each, under all spellings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AnswerError(ValueError):
    """A question cannot be scored: no choices, no answer among them, or choices that look alike."""


def spellings(choice: str) -> list[str]:
    """Return the spellings under which a choice may begin an answer."""
    bare = choice.strip()
    variants = (bare, bare.lower(), bare.capitalize())
    return list(dict.fromkeys([*variants, *(" " + variant for variant in variants)]))


def first_token(tokenizer: Any, text: str) -> int | None:
    """Return the first token of a text that is more than white space; None if it is unknown."""
    for token in tokenizer.encode(text, add_special_tokens=False):
        if token == tokenizer.unk_token_id:
            return None
        if tokenizer.decode([token]).strip():
            return int(token)
    return None


def answer_token_ids(tokenizer: Any, choice: str) -> list[int]:
    """Return the first tokens of a choice's spellings: plain, capitalised, after a space.

    Raises:
        AnswerError: no spelling begins with a token that the vocabulary has.
    """
    found = {first_token(tokenizer, text) for text in spellings(choice)} - {None}
    if not found:
        raise AnswerError(
            f"choice {choice!r}: none of its spellings {spellings(choice)} begins with a known token. "
            "Use choices that are words of the model's vocabulary."
        )
    return sorted(found)


def choice_token_ids(tokenizer: Any, choices: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each choice of a question.

    Raises:
        AnswerError: two choices share a token, so that the first token cannot tell them apart.
    """
    ids = [answer_token_ids(tokenizer, choice) for choice in choices]
    owner: dict[int, str] = {}
    for choice, tokens in zip(choices, ids):
        for token in tokens:
            if token in owner:
                raise AnswerError(
                    f"choices {owner[token]!r} and {choice!r} both begin with token {token} "
                    f"({tokenizer.decode([token])!r}). Reword one so that their first tokens differ."
                )
            owner[token] = choice
    return ids

"""From a prompt to its tokens, which never depend on what stands beside it in a batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlmdiff.models.errors import PromptError, showing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens are compared with and without special ones around this text.
PROBE = "a"
REMEDY = "correct the prompt"
CONTROL_REMEDY = "take the control token out of the prompt"


@dataclass(frozen=True)
class Prompts:
    """How texts become tokens.

    What a user wrote is never read as a control token: `</s>` in a caption is four characters. A sequence
    begins with what the tokenizer puts before a text, once, and nothing is put behind it.

    Attributes:
        model: name of the model in the config, for messages.
        tokenizer: its tokenizer.
        template: its chat template, whose marks are control tokens too.
    """

    model: str
    tokenizer: PreTrainedTokenizerBase
    template: str | None = None

    @cached_property
    def leading(self) -> list[int]:
        """Tokens that the tokenizer puts before a text, such as BOS; none for many."""
        plain = self.tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(PROBE)["input_ids"]
        starts = (at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)
        return whole[: next(starts, 0)]

    @cached_property
    def controls(self) -> re.Pattern[str]:
        """Match special tokens, and added tokens that the chat template writes."""
        found = {
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special or (self.template and token.content.strip() and token.content in self.template)
        }
        # The longest first, so that a token goes before those that it contains.
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or "(?!)")

    def begins_with_bos(self, prompt: str) -> bool:
        """Tell whether a document brings its own BOS, as other tools write them."""
        bos = self.tokenizer.bos_token
        return bool(bos) and prompt.startswith(bos)

    def body(self, prompt: str, document: bool) -> str:
        """Return a prompt in which nothing is a control token; a document's own BOS is left out."""
        from transformers.utils.chat_template_utils import mark_control_tokens

        if document and self.begins_with_bos(prompt):
            prompt = prompt.removeprefix(self.tokenizer.bos_token)
        return mark_control_tokens(prompt, self.controls)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts around bodies; special tokens are those that the texts hold.

        Raises:
            PromptError: the tokenizer refuses a text.
        """
        from transformers.utils.chat_template_utils import encode_marked_chat

        try:
            # What tokenizer.json says about padding and cutting is for others.
            rows = self.tokenizer(
                list(texts), add_special_tokens=False, padding=False, truncation=False, verbose=False
            )["input_ids"]
        except Exception:
            for index, text in enumerate(texts):
                with showing(self.model, index, "the prompt cannot be read", REMEDY):
                    self.tokenizer([text], add_special_tokens=False)
            raise
        for index, text in enumerate(texts):
            if marked(text):
                with showing(self.model, index, "the prompt cannot be read", CONTROL_REMEDY):
                    rows[index] = encode_marked_chat(self.tokenizer, text)
        return rows

    def begun(self, row: Sequence[int], prompt: str, document: bool) -> list[int]:
        """Return a row with what begins a sequence, once.

        A document gets what the tokenizer writes, or keeps its own BOS where that is nothing. A
        conversation may have it from the template.
        """
        if document:
            own = [self.tokenizer.bos_token_id] if self.begins_with_bos(prompt) else []
            return [*(self.leading or own), *row]
        there = self.tokenizer.bos_token_id in row or row[: len(self.leading)] == self.leading
        return list(row) if there else [*self.leading, *row]

    def check(self, index: int, row: Sequence[int], context: int | None, document: bool) -> None:
        """Refuse a prompt without tokens, or with more than the model has positions.

        Raises:
            PromptError: naming what was found and expected.
        """
        if len(row) <= (len(self.leading) if document else 0):
            raise PromptError(
                index,
                f"model '{self.model}': found no tokens in the prompt, expected at least one; write "
                "something that the tokenizer knows, or leave the sample out",
            )
        if context is not None and len(row) > context:
            raise PromptError(
                index,
                f"model '{self.model}': found {len(row)} tokens, expected at most {context}, its context "
                "(max_position_embeddings in config.json; with longrope original_max_position_embeddings, "
                "beyond which prompts change each other); shorten the prompt, or leave the sample out",
            )


def marked(text: str) -> bool:
    """Tell whether a text has control tokens in what the user wrote."""
    from transformers.utils.chat_template_utils import _CONTROL_TOKEN_START

    return _CONTROL_TOKEN_START in text

"""The chat template of a model, which its repository wrote and a sandbox runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmdiff.models.errors import SubjectError


def chat_texts(name: str, owner: Any, chats: Sequence[Any]) -> list[str]:
    """Write conversations as texts that end where the assistant's answer begins.

    Args:
        name: name of the model in the config, for the message.
        owner: tokenizer or processor that has the template.
        chats: conversations as transformers wants them.

    Raises:
        SubjectError: the template is damaged, refuses such a conversation, or tries what the sandbox forbids.
    """
    try:
        return owner.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template may fail in any way
        raise SubjectError(
            f"model '{name}': its chat template cannot write a question ({type(error).__name__}: {error}); "
            "correct chat_template in the checkpoint's folder, or fetch it again"
        ) from error

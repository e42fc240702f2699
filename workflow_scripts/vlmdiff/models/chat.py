"""The chat template of a model, which its repository wrote and a sandbox runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdiff.config.defaults import PROMPT_DATE
from vlmdiff.models.errors import SubjectError, showing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, Any]]
FILES = "chat_template.jinja, chat_template.json, processor_config.json, tokenizer_config.json"
# How Llama's templates write a day, and the name under which they take it.
DAY_NAME, DAY_FORMAT = "date_string", "%d %b %Y"
CLOCKS = ("strftime_now", DAY_NAME)


@dataclass(frozen=True)
class ChatFormat:
    """How a model's conversations are written.

    Attributes:
        model: name of the model in the config, for messages.
        template: the Jinja text; None if the checkpoint brings none.
        day: what the template takes for today, at midnight: tokens do not depend on when a job runs.
        wanted: False where the config says that the model is shown raw text alone.
        special: special tokens by the names under which templates know them.
    """

    model: str
    template: str | None = None
    day: date = PROMPT_DATE
    wanted: bool = True
    special: dict[str, Any] = field(default_factory=dict)

    @property
    def tells_the_day(self) -> bool:
        """Whether the template asks which day it is."""
        return self.template is not None and any(clock in self.template for clock in CLOCKS)

    def write(self, chats: Sequence[Chat]) -> list[str]:
        """Write conversations as texts that end where the assistant's answer begins.

        Args:
            chats: conversations as transformers wants them.

        Raises:
            PromptError: the template is damaged, refuses a conversation, or tries what the sandbox forbids.
        """
        remedy = (
            "correct chat_template in the checkpoint's folder, fetch it again, or set "
            f"models.{self.model}.chat: false if the model was trained on raw text alone"
        )
        texts = []
        for index, chat in enumerate(chats):
            with showing(self.model, index, "its chat template cannot write a question", remedy):
                texts.append(written_by(self.render, chat))
        return texts

    def render(self, chat: Chat) -> str:
        """Run the template in transformers' sandbox, where only the day is ours.

        `apply_chat_template` lets no function through, so it always tells the template today's date.
        """
        from transformers.utils.chat_template_utils import _compile_jinja_template

        now = datetime.combine(self.day, time())
        return _compile_jinja_template(self.template).render(
            messages=chat,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self.special,
            **{DAY_NAME: now.strftime(DAY_FORMAT), "strftime_now": now.strftime},
        )

    def check(self) -> None:
        """Refuse to write a conversation without a template.

        Raises:
            SubjectError: the checkpoint brings none.
        """
        if self.template is None:
            raise SubjectError(
                f"model '{self.model}': found no chat template (looked in {FILES}), but it is shown samples "
                "with `chat: true`; copy the file with the template into the checkpoint's folder, or set "
                f"models.{self.model}.chat: false if the model was trained on raw text alone"
            )


def user_turn(prompt: str, with_image: bool) -> Chat:
    """Return a conversation of one user turn: the image, if any, before the text."""
    image = [{"type": "image"}] if with_image else []
    return [{"role": "user", "content": [*image, {"type": "text", "text": prompt}]}]


def written_by(render: Callable[[Chat], str], chat: Chat) -> str:
    """Return what a template writes of a conversation, whose plain texts it may want as lists of parts.

    Templates of language models that were cut out of vision-language models go through parts alone.

    Args:
        render: runs the template.
        chat: the conversation.

    Raises:
        Exception: it writes neither; the error tells of the conversation as it is.
    """
    try:
        return written(chat, render(chat))
    except Exception:  # templates fail in many ways
        if not isinstance(chat[-1]["content"], str):
            raise
        parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in chat]
        with suppress(Exception):
            return written(parts, render(parts))
        raise


def written(chat: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return what a template wrote, if the question stands in it.

    Raises:
        ValueError: it does not; a template for plain texts, say, writes the list of a message's parts.
    """
    content = chat[-1]["content"]
    question = content if isinstance(content, str) else content[-1]["text"]
    if question.strip() not in text or (question is not content and "{'type'" in text):
        raise ValueError(f"it wrote {text[-200:]!r}, expected a text with the question")
    return text


def chat_format(
    model: str, folder: Path, tokenizer: PreTrainedTokenizerBase, day: date, wanted: bool
) -> ChatFormat:
    """Find the template of a checkpoint: the processor's, else the tokenizer's.

    Args:
        model: name of the model in the config.
        folder: folder of the checkpoint.
        tokenizer: its tokenizer.
        day: what the template takes for today.
        wanted: whether the model is asked in its chat format at all.

    Raises:
        SubjectError: there are several templates, and none is the default.
    """
    from transformers import ProcessorMixin

    files, _ = ProcessorMixin.get_processor_dict(folder, local_files_only=True)
    template = files.get("chat_template") or tokenizer.chat_template or None
    if isinstance(template, dict):
        if "default" not in template:
            raise SubjectError(
                f"model '{model}': found the chat templates {sorted(template)} and none named 'default'; "
                "save the one to use as chat_template.jinja in the checkpoint's folder"
            )
        template = template["default"]
    return ChatFormat(model, template, day, wanted, dict(tokenizer.special_tokens_map))

"""What a chat endpoint sent back: an answer, or the reason why it is none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vlmdiff.runtime.text import visible

# Why a whole answer ends, by what endpoints call it (`plain`); most say nothing or `stop`.
WHOLE = re.compile(
    r"|null|none|(finish_?reason_)?(stop|end|eos|eot|eom|im_end|s|normal|done|completed?|finished?"
    r"|(stop|end|eos|eot|eom)_?(id|token|((of_?)?(sequence|turn|text|sentence|message))|string|words?))"
)
# Why another one ended, and what a user can do about it; the first that is found in its word counts.
BROKEN_OFF = MappingProxyType(
    {
        r"length|tokens|(?<!rate.)limit": "labelling.max_tokens = {max_tokens} cut it off; raise it (models "
        "that reason spend tokens first)",
        r"filter|safety|recitation|block|prohibited|toxic|sensitive|spii|guardrail": "a content filter "
        "stopped it; ask another labelling.model, or change labelling.template",
        r"refus": "the model refused; ask another labelling.model, or change labelling.template",
        r"tool|function": "the model called a tool, though none was offered; ask another labelling.model",
        r"": "the endpoint broke off; run the same command again, or ask another labelling.model",
    }
)
NOTHING_SAID = "the model said nothing; ask another labelling.model, or change labelling.template"
# What servers write where there is no text.
NO_WORDS = frozenset({"", "none", "null", "nil", "undefined", "nan"})
# What stands before a tag or mark that a text speaks of, and not before one that ends it.
MENTIONING = r"""[\s"'`“‘«(\[{<>,/|*]"""
# Some servers leave the reasoning in the text: in tags, of which the first may lack, or to the end if nothing
# closes it; or in channels, of which the final one is the answer. A closing tag without an opening one counts
# if it begins or ends a line or is glued to words: texts about tags speak of them between blanks.
TAG = r"(?:<{0}(?:\w+:)?{1}>|◁{0}{1}▷|(?-i:\[{0}THINK\]))"
OPEN, CLOSE = (TAG.format(slash, "(?:think|thinking|thoughts?|reasoning)") for slash in ("", "/"))
REASONING = re.compile(
    rf"\A(?:\s*{OPEN}.*?{CLOSE})*"
    rf"(?:.*(?:(?:^[ \t]*|(?<!{MENTIONING})){CLOSE}(?:\s*{CLOSE})*|{CLOSE}(?:(?=\w\w)|[ \t]*\n(?=\s*\S)))"
    r"|analysis.*assistantfinal)?"
    rf"\s*(?:(?:{OPEN}|<\|channel\|>\s*(?:analysis|commentary)).*)?",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
FINAL_CHANNEL = re.compile(
    r"\A.*<\|channel\|>\s*final\b.*?<\|message\|>(.*?)(?:<\|(?:end|return|call|start)\|>.*)?\Z", re.DOTALL
)
# Marks of tokenizers that some servers leave at the end: behind a word or sentence, or alone in a line.
MARK = (
    r"(?:<\|[^<>|\s]+\|>|<｜[^<>｜]+｜>|</?s>|<(?:pad|[be]os|unk|eo[tdm]|end|end_of_\w+)>"
    r"|(?-i:\[(?:PAD|[BE]OS|SEP|CLS|UNK|/INST)\]))"
)
END_MARKS = re.compile(
    rf"(?:^|(?<!{MENTIONING})|(?<=[.!?…]\s)){MARK}(?:\s*{MARK})*\s*\Z", re.IGNORECASE | re.MULTILINE
)
SHOWN = 200


class EndpointError(RuntimeError):
    """The endpoint cannot be used; the message says why and what to do, and never holds the key."""


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the answer.
        finish_reason: why it ended; empty if the endpoint does not say.
        model: the model that the endpoint says it used; empty if it does not say.
        prompt_tokens, completion_tokens: as the endpoint counts; -1 if it does not.
    """

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int

    def fault(self, max_tokens: int) -> str | None:
        """Say why this is no whole answer, and what to do; None if it is one.

        Args:
            max_tokens: how long it was allowed to be.
        """
        reason = plain(self.finish_reason)
        if WHOLE.fullmatch(reason):
            if re.sub(r"\W", "", self.text.lower()) not in NO_WORDS:
                return None
            why = NOTHING_SAID
        else:
            why = next(advice for words, advice in BROKEN_OFF.items() if re.search(words, reason))
        said = f"finish_reason is {shown(self.finish_reason)} and the text {shown(self.text)}"
        return f"{said}: {why.format(max_tokens=max_tokens)}"


def plain(reason: str) -> str:
    """Return a reason in the spelling of `WHOLE`, as `eot_id` for `<|EOT_ID|>`; signs alone stay."""
    return re.sub(r"\W+", "_", reason.lower()).strip("_") or reason.strip()


def shown(text: str) -> str:
    """Quote a text from elsewhere shortly, in one line."""
    line = visible(" ".join(text.split()))
    return f"'{line if len(line) <= SHOWN else line[:SHOWN] + '…'}'"


def read_reply(body: Any, max_tokens: int) -> Reply:
    """Read the parsed body of a chat completion.

    Args:
        body: what the endpoint sent, parsed from JSON.
        max_tokens: how long the answer was allowed to be.

    Raises:
        EndpointError: it is no chat completion, a refusal, or an answer that is not whole.
    """
    if isinstance(body, Mapping) and body.get("error"):
        raise EndpointError(f"the endpoint reports an error: {shown(error_message(body))}")
    choice = first_choice(body)
    message = choice["message"]
    parts = text_parts(message.get("content"))
    refused = message.get("refusal") or "".join(parts["refusal"])
    if refused:
        raise EndpointError(
            f"the model refuses: {shown(str(refused))}; ask another labelling.model, or change "
            "labelling.template"
        )
    usage = body.get("usage") or {}
    answer = Reply(
        clean("".join(parts["text"])),
        finish_reason(choice),
        str(body.get("model") or ""),
        count(usage, "prompt_tokens"),
        count(usage, "completion_tokens"),
    )
    if (fault := answer.fault(max_tokens)) is not None:
        raise EndpointError(f"no description came back: {fault}")
    return answer


def error_message(body: Mapping[str, Any]) -> str:
    """Return the words of an error object, which endpoints nest differently."""
    error = body["error"]
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)


def first_choice(body: Any) -> Mapping[str, Any]:
    """Return the first choice of a chat completion.

    Raises:
        EndpointError: there is none, or it has no message.
    """
    choices = body.get("choices") if isinstance(body, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
        raise EndpointError(
            f"the answer is not a chat completion; found {shown(str(body))}, expected JSON with "
            "choices[0].message.content. Check labelling.base_url"
        )
    return choice


def finish_reason(choice: Mapping[str, Any]) -> str:
    """Return why an answer ended, in a text or as `{"type": "stop", …}`; empty if the endpoint is silent."""
    reason = choice.get("finish_reason")
    reason = reason.get("type", reason) if isinstance(reason, Mapping) else reason
    return "" if reason is None else str(reason)


def text_parts(content: Any) -> dict[str, list[str]]:
    """Return the texts of a message's content by kind, `text` and `refusal`; reasoning is neither.

    Args:
        content: None, a text, or a list of texts and parts `{"type": …, "text": …}`, by default of type text.

    Raises:
        EndpointError: it is something else.
    """
    found: dict[str, list[str]] = {"text": [], "refusal": []}
    for part in [] if content is None else content if isinstance(content, list) else [content]:
        part = part if isinstance(part, Mapping) else {"type": "text", "text": part}
        kind = str(part.get("type") or "text").removeprefix("output_")
        said = part.get(kind)
        if kind in found and not isinstance(said, str | None):
            raise EndpointError(f"the answer is not a chat completion; content is {shown(repr(content))}")
        found.get(kind, []).append(said or "")
    return found


def clean(text: str) -> str:
    """Return an answer without reasoning in its text, marks of its end, blanks and halves of characters."""
    before, said = None, text.encode("utf-8", "replace").decode("utf-8")
    while said != before:
        before, said = said, REASONING.sub("", FINAL_CHANNEL.sub(r"\1", said), count=1).strip()
        said = END_MARKS.sub("", said).strip()
    return said


def count(usage: Any, name: str) -> int:
    """Return a count of tokens; -1 if the endpoint does not count."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else -1

"""An exception in one line: its kind, its words, and what led to it if the words do not say."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence

# Longer messages, such as the keys of a whole checkpoint, stand in full in the log.
LONGEST = 1500
# Shorter words of a cause, such as a key, may stand in a message by chance.
CHANCE = 12
# Lines of a message that end so go on in the next one.
OPEN_ENDS = (":", ";", ",", ".", "-", "(", "[", "{", "=")

# What a machine runs out of: how exceptions tell it by their types, the system's numbers, and words.
RUNS_OUT = {
    "memory": (
        {"MemoryError", "OutOfMemoryError"},
        {errno.ENOMEM},
        re.compile("out of memory|can(?:'t|not) allocate memory", re.IGNORECASE),
    ),
    "disk": (set(), {errno.ENOSPC, errno.EDQUOT}, re.compile("No space left on device|Disk quota exceeded")),
}


def one_line(text: str) -> str:
    """Join the lines of a text by semicolons, or by blanks where a line goes on; cut what is very long."""
    # Here, so that jobs that succeed import nothing for it: it is no part of what they are digested by.
    from vlmdiff.runtime.text import visible

    joined = ""
    for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        gap = "" if not joined else " " if joined.endswith(OPEN_ENDS) else "; "
        joined += gap + line
    joined = visible(joined)
    return joined if len(joined) <= LONGEST else f"{joined[:LONGEST]} … (cut; the log has all of it)"


def led_to(error: BaseException) -> Sequence[BaseException]:
    """Return what an exception was raised from, or while handling what, or the members of a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions
    if error.__cause__ is not None:
        return [error.__cause__]
    return [] if error.__suppress_context__ or error.__context__ is None else [error.__context__]


def named(error: BaseException) -> str:
    """Return the kind of an exception with its words, in one line."""
    words = one_line(str(error))
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def root(error: BaseException) -> BaseException:
    """Return the first exception of a chain."""
    seen = {id(error)}
    while (before := led_to(error)) and id(before[0]) not in seen:
        seen.add(id(before[0]))
        error = before[0]
    return error


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and each one that led to it, once, those of groups among them."""
    waiting, seen = [error], set()
    while waiting:
        if id(one := waiting.pop(0)) not in seen:
            seen.add(id(one))
            yield one
            waiting += led_to(one)


def ran_out(error: BaseException) -> str | None:
    """Return what an exception says the machine ran out of, `memory` or `disk`; None if of neither."""
    types = {kind.__name__ for kind in type(error).__mro__}
    for what, (names, numbers, words) in RUNS_OUT.items():
        if names & types or getattr(error, "errno", None) in numbers or words.search(str(error)):
            return what
    return None


def tells(text: str, error: BaseException) -> bool:
    """Tell whether a message repeats the words of an exception; short ones count only with its kind."""
    words = one_line(str(error))
    said = words if len(words) >= CHANCE else named(error)
    return re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text) is not None


def cause(error: BaseException) -> str:
    """Say in one line what failed, and what led to it if that is not said.

    What led to it is what the machine ran out of, or else the first exception of the chain.
    """
    text = named(error)
    first = next((one for one in chain(error) if one is not error and ran_out(one)), root(error))
    if first is error or tells(text, first):
        return text
    return f"{text} (because of {named(first)})"

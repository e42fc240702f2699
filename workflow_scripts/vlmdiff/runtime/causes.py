"""An exception in one line: its kind, its words, and what led to it if the words do not say."""

from __future__ import annotations

import re

# Longer messages, such as the keys of a whole checkpoint, stand in full in the log.
LONGEST = 1500
# Shorter words of a cause, such as a key, may stand in a message by chance.
CHANCE = 12
# Lines of a message that end so go on in the next one.
OPEN_ENDS = (":", ";", ",", ".", "-", "(", "[", "{", "=")


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


def led_to(error: BaseException) -> BaseException | None:
    """Return what an exception was raised from, or while handling what; None if nothing, or if hidden."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def named(error: BaseException) -> str:
    """Return the kind of an exception with its words, in one line."""
    words = one_line(str(error))
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def root(error: BaseException) -> BaseException:
    """Return the first exception of a chain."""
    seen = {id(error)}
    while (before := led_to(error)) is not None and id(before) not in seen:
        seen.add(id(before))
        error = before
    return error


def tells(text: str, error: BaseException) -> bool:
    """Tell whether a message repeats the words of an exception; short ones count only with its kind."""
    words = one_line(str(error))
    said = words if len(words) >= CHANCE else named(error)
    return re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text) is not None


def cause(error: BaseException) -> str:
    """Say in one line what failed, and what led to it if that is not said."""
    text, first = named(error), root(error)
    if first is error or tells(text, first):
        return text
    return f"{text} (because of {named(first)})"

"""What can go wrong with a model that the user named, and with what it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SubjectError(ValueError):
    """A model cannot be loaded or asked as configured; the message says what to change."""


class LayoutError(SubjectError):
    """A decoder is built in a way that the method cannot take apart."""


class PromptError(SubjectError):
    """A model cannot be shown one of several prompts.

    Attributes:
        index: which of them; whoever knows the samples names the sample and its file.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@contextmanager
def showing(model: str, index: int, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises into an error about one prompt, on one line.

    Args:
        model: name of the model in the config.
        index: which prompt.
        what: what cannot be done.
        remedy: what to do about it.

    Raises:
        PromptError: anything went wrong.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # libraries refuse texts and pictures in many ways
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise PromptError(index, f"model '{model}': {what} ({said}); {remedy}") from error

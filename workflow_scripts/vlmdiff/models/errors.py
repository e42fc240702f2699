"""What can go wrong with a model that the user named, and with what it is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# Kinds of errors by which torch tells of a device; some libraries below it say so in words alone.
MACHINE_ERRORS = {"MemoryError", "OutOfMemoryError", "AcceleratorError"}
MACHINE_WORDS = re.compile(
    r"out of memory|allocate memory|\b(CUDA|cuDNN|HIP|MIOpen|MPS|NCCL|XPU)\b.*\berror", re.IGNORECASE
)


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


def of_machine(error: Exception) -> bool:
    """Tell whether memory or an accelerator failed, which says nothing against model, prompt or picture."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & MACHINE_ERRORS) or (
        isinstance(error, RuntimeError) and bool(MACHINE_WORDS.search(str(error)))
    )


def said(error: Exception) -> str:
    """Return kind and message of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def showing(model: str, index: int, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises into an error about one prompt, on one line.

    Errors of the machine, and those that blame the model already, stay what they are.

    Args:
        model: name of the model in the config.
        index: which prompt.
        what: what cannot be done.
        remedy: what to do about it.

    Raises:
        PromptError: anything else went wrong.
    """
    try:
        yield
    except Exception as error:  # libraries refuse texts and pictures in many ways
        if isinstance(error, SubjectError) or of_machine(error):
            raise
        raise PromptError(index, f"model '{model}': {what} ({said(error)}); {remedy}") from error

"""What can go wrong with a model that the user named."""

from __future__ import annotations


class SubjectError(ValueError):
    """A model cannot be loaded or asked as configured; the message says what to change."""

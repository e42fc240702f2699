"""What can be wrong with a data set."""

from __future__ import annotations


class DataError(ValueError):
    """A data set is not as docs/understand/formats.md says; the message names file, line and remedy."""

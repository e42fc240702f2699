"""`perplexity`: whether models still read plain text as the one before tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from vlmdiff.config.base import DatasetName, Distinct, Name, Section


class PerplexityConfig(Section):
    """Plain text on which models are held against the one before tuning: is the language kept?"""

    models: Annotated[list[Name], Distinct] = Field(
        min_length=2, description="Models that read it; the others are held against the first."
    )
    dataset: DatasetName = Field(description="Texts that they read.")
    limit: float = Field(
        1.1, gt=1, description="Language is kept if perplexity is at most so many times the first model's."
    )

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield (kind, key, name) for everything that it refers to by name."""
        yield from (("model", "perplexity.models", name) for name in self.models)
        yield "dataset", "perplexity.dataset", self.dataset

"""The explorer: a page on which every feature can be found, and some can be looked at sample by sample."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vlmdiff.config.base import Count, Distinct, Name, Section


class ExplorerConfig(Section):
    """A static page of all features of the main comparison (docs/understand/write_explorer.md)."""

    features: Count = Field(
        40,
        description="Features with samples, at most, of each kind: final ones of a concept, matched random "
        "ones, and those that changed most.",
    )
    samples: Count = Field(
        6, description="Samples of each feature: so many strongest, half as strong, and silent ones."
    )
    limit: Count = Field(2000, description="Samples among which these are found, from the first on.")
    comparisons: Annotated[list[Name], Distinct] | None = Field(
        None,
        description="Comparisons that show each feature next to the main one, such as stages and control "
        "models: they are made with the explorer; left out: those of the default run that have its features.",
    )
    picture_pixels: int = Field(
        256,
        ge=16,
        le=2048,
        description="Most pixels of a picture's side; no larger copy leaves the data set.",
    )

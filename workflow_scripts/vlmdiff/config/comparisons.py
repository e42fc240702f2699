"""Further comparisons beside the main one: controls, stages of the model, other choices of the analyst."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vlmdiff.config.analysis import DiffConfig
from vlmdiff.config.base import Count, DatasetName, Distinct, Name, Percentage, Probability, Section
from vlmdiff.config.concepts import ConceptConfig

MAIN = "main"
ROTATION, DRIFT, CROSSCODER = "rotation", "drift", "crosscoder"
# Fields of a comparison that stand in the place of the same field of `diff`, and of a concept.
OF_DIFF = ("base", "adapted", "null", "model", "visual_datasets", "text_datasets", "eps", "percentile")
OF_DIFF += ("null_quantile", "rule", "method", "base_model", "null_model")
OF_CONCEPT = ("min_odds_ratio", "min_frequency_difference")


class ComparisonConfig(Section):
    """Everything from feature statistics to final features once more, with some things changed.

    What is left out is as in `diff` and in the concept.
    """

    target: Literal["all", "controls", "stages", "sensitivity", "scoreboard"] = Field(
        description="Target that makes it: `all` is the default run, the others are asked for by name."
    )
    about: str = Field(description="What is different, in a few words, for tables and figures.")
    method: Literal["rotation", "drift", "crosscoder"] | None = Field(
        None, description="How features are compared."
    )
    base: Name | None = Field(None, description="Dictionary before multimodal fine-tuning.")
    adapted: Name | None = Field(None, description="Dictionary after it.")
    null: Name | None = Field(None, description="Dictionary fine-tuned on more of the same text.")
    model: Name | None = Field(None, description="Model whose activations give energies and contrast.")
    base_model: Name | None = Field(
        None, description="The model before tuning: where a drift starts; of a rotation, for latent scaling."
    )
    null_model: Name | None = Field(None, description="Drift: a model tuned on text alone.")
    visual_datasets: Annotated[list[DatasetName], Distinct] | None = Field(
        None, min_length=1, description="Data sets with images."
    )
    text_datasets: Annotated[list[DatasetName], Distinct] | None = Field(
        None, min_length=1, description="Data sets without images."
    )
    eps: float | None = Field(None, ge=0, description="Visual energy above which a feature is active.")
    percentile: Percentage | None = Field(None, description="Percentile rule.")
    null_quantile: Probability | None = Field(None, description="Calibrated rule.")
    rule: Literal["percentile", "calibrated", "energy"] | None = Field(
        None, description="Rule of this comparison; `energy` asks for visual energy alone, not for rotation."
    )
    min_odds_ratio: float | None = Field(None, gt=0, description="Smallest odds ratio of the contrast.")
    min_frequency_difference: float | None = Field(
        None, ge=0, lt=1, description="Smallest difference of the firing frequencies."
    )
    seeds: Count = Field(1, description="How many seeds of it are made.")

    def diff(self, main: DiffConfig) -> DiffConfig:
        """Return the main diff with this comparison's changes."""
        changes = {name: getattr(self, name) for name in OF_DIFF if getattr(self, name) is not None}
        # What was never tuned is held against the main comparison; each asks for latent scaling by itself.
        changes |= {"untuned": None, "base_model": self.base_model}
        # Nothing is trained for a drift: the base dictionary reads all models.
        if self.method == DRIFT:
            changes |= {"adapted": changes.get("base", main.base), "null_check": None}
        # One crosscoder holds both models' features.
        if self.method == CROSSCODER:
            changes |= {"base": changes.get("adapted", main.adapted), "null_check": None}
        # A second null belongs to the base that it started from.
        changes |= {"null_check": None} if self.base not in (None, main.base) else {}
        return main.model_copy(update=changes)

    def concept(self, main: ConceptConfig) -> ConceptConfig:
        """Return a concept with this comparison's changes, as far as its contrast knows them."""
        known = set(OF_CONCEPT) & set(type(main).model_fields)
        changes = {name: getattr(self, name) for name in known if getattr(self, name) is not None}
        return main.model_copy(update=changes)


class GridConfig(Section):
    """Corners of the stage grid, with `diff.base` at the start (docs/understand/method.md section 3)."""

    data: Name = Field(description="D: started from the base, trained on the base LM shown the new data.")
    model: Name = Field(description="M: started from the base, trained on the VLM shown the base's data.")
    data_then_model: Name = Field(description="F: started from D, trained on the VLM shown the new data.")
    model_then_data: Name = Field(description="F: started from M, trained on the VLM shown the new data.")

    def corners(self) -> dict[str, str]:
        """Return the dictionary of each corner but the first."""
        return self.model_dump()


class StagesConfig(Section):
    """Data or model, and when: the target `stages` (docs/understand/stages.md)."""

    grid: GridConfig | None = Field(None, description="The stage grid.")
    models: Annotated[list[Name], Distinct] = Field(
        [], description="Models in which the directions of the main comparison are ablated, in order of time."
    )
    features: Count = Field(10, description="How many of the best-ranked final features are transferred.")

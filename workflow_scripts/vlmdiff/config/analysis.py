"""Feature diff, lexical filter, interventions and heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from vlmdiff.config.base import Count, DatasetName, Distinct, Name, Percentage, Probability, Section
from vlmdiff.config.concepts import Text


def check_one_concept(values: Any) -> Any:
    """Refuse the former key of a section that knew one concept.

    Raises:
        ValueError: telling what to write.
    """
    if isinstance(values, dict) and "concept" in values:
        raise ValueError(f"concept: now called `concepts`; write `concepts: [{values['concept']}]`")
    return values


def several(size: int) -> int:
    """Refuse a set of one feature."""
    if size == 1:
        raise ValueError(
            "found 1, expected 2 or more: `single_features` reports features one by one; leave it out"
        )
    return size


SetSize = Annotated[Count, AfterValidator(several)]


class DiffConfig(Section):
    """What is compared, and when a feature counts as adapted (docs/understand/method.md section 5)."""

    method: Literal["rotation", "drift", "crosscoder"] = Field(
        "rotation",
        description="How features are compared: `rotation` of a dictionary trained on; in further "
        "comparisons `drift` of what the base dictionary does, or between the two models that a "
        "`crosscoder` reads (docs/understand/diff_features.md).",
    )
    base: Name = Field("base", description="Dictionary before multimodal fine-tuning.")
    adapted: Name = Field("adapted", description="Dictionary after it; `drift` has the base one there.")
    null: Name = Field("null_text", description="Dictionary fine-tuned on more of the same text.")
    null_check: Name | None = Field(
        None,
        description="A second null, made like the first on other text: on it the false positives of both "
        "rules are counted for the first seed, for the calibrated rule was set by the first null.",
    )
    untuned: Name | None = Field(
        None,
        description="A comparison of target `all` whose model was never tuned (`models.<name>.untuned`): "
        "what it finds are false finds, and how many features rotate in it is counted next to the nulls.",
    )
    model: Name = Field("vlm", description="Model whose activations give the energies and the contrast.")
    base_model: Name | None = Field(
        None,
        description="The model before tuning. Of a rotation: latent scaling tells how strongly it has each "
        "feature; left out: not told. Of a drift: where it starts; left out: the base dictionary's model.",
    )
    null_model: Name | None = Field(
        None, description="Drift: a model tuned on text alone; what changes in it is the null."
    )
    visual_datasets: Annotated[list[DatasetName], Distinct] = Field(
        min_length=1, description="Data sets with images: visual energy."
    )
    text_datasets: Annotated[list[DatasetName], Distinct] = Field(
        min_length=1, description="Data sets without images: text energy."
    )
    eps: float = Field(0.01, ge=0, description="Visual energy above which a feature is active on images.")
    percentile: Percentage = Field(25.0, description="Percentile rule: cosine at or below this percentile.")
    null_quantile: Probability = Field(0.01, description="Calibrated rule: quantile of the null's cosines.")
    rule: Literal["percentile", "calibrated", "energy"] = Field(
        "calibrated",
        description="Rule that later stages use; `energy` asks for visual energy alone, not for rotation.",
    )
    sweep_eps: Annotated[list[float], Distinct] = Field(
        [0.0001, 0.001, 0.01, 0.1, 1.0], min_length=1, description="Values of eps in the robustness sweep."
    )
    sweep_percentiles: Annotated[list[Percentage], Distinct] = Field(
        [5, 10, 15, 20, 25, 30, 40, 50], min_length=1, description="Percentiles in the robustness sweep."
    )


class LexicalConfig(Section):
    """Does a feature still fire when the question no longer names the concept?"""

    prompts: Annotated[list[Text], Distinct] = Field(
        [],
        description="Neutral prompts that replace the question; needed where a concept has `lexical: true`.",
    )
    describe_tokens: int = Field(
        0,
        ge=0,
        le=256,
        description="Tokens that the model may add to a neutral prompt in its own words, up to a word of the "
        "concept; 0: the prompt alone, as in the paper.",
    )
    samples: Count = Field(5, description="Strongest samples of each feature.")
    threshold: float = Field(0.01, ge=0, description="Activation above which a feature fires.")
    min_pair_fraction: Probability = Field(
        0.01, description="Loose variant: image x prompt pairs that must fire."
    )
    variant: Literal["strict", "loose"] = Field("loose", description="Variant that later stages use.")

    @property
    def limits(self) -> dict[str, float]:
        """What an invariant feature must reach: a share of the pairs, or all samples."""
        return {"pairs": self.min_pair_fraction} if self.variant == "loose" else {"samples": 1.0}


class CausalData(Section):
    """A concept's own questions, and general ones."""

    target: DatasetName = Field(
        description="Data set of the concept, or groups of one: `{dataset: NAME, groups: […], without: […]}`."
    )
    control: DatasetName = Field(description="General data set, or groups of one.")
    samples: Count = Field(600, description="Samples of each data set, from the first on.")

    @model_validator(mode="after")
    def sides_differ(self) -> CausalData:
        """A concept's own questions are held against others."""
        if self.target == self.control:
            raise ValueError(
                f"control: found '{self.control}', which is `target` too, expected general questions that "
                "the concept's own are held against; name another data set"
            )
        return self


class HeadlineConfig(Section):
    """The one result that is claimed, fixed before the run; every other one is corrected for being many."""

    scope: Literal["own_layer", "all_layers"] = Field(
        "all_layers", description="Where directions are removed; one of `scopes`."
    )
    size: SetSize = Field(10, description="Features ablated together; one of `set_sizes`.")
    measure: Literal["margin", "accuracy"] = Field(
        "margin", description="What is claimed about: accuracy saturates where the margin still moves."
    )


class AblationConfig(Section):
    """Projection ablation of features and sets (docs/understand/method.md section 7)."""

    concepts: Annotated[list[Name], Distinct] = Field(
        min_length=1,
        description="Concepts whose final features are ablated; the first one's is the headline.",
    )
    scopes: Annotated[list[Literal["own_layer", "all_layers"]], Distinct] = Field(
        ["own_layer", "all_layers"], min_length=1, description="Where a direction is removed."
    )
    rank_on: CausalData = Field(description="Validation data: candidates are ranked here.")
    report_on: CausalData = Field(
        description="Test data: results are reported here (docs/understand/hold_out.md)."
    )
    headline: HeadlineConfig = Field(HeadlineConfig(), description="The one result that is claimed.")
    candidates: Count = Field(250, description="At most this many final features are ranked causally.")
    verified: Count = Field(
        40,
        description="How many of the first by first-order estimate are measured exactly, of the candidates "
        "and of each random pool alike.",
    )
    single_features: Count = Field(10, description="How many of the best are reported one by one.")
    set_sizes: Annotated[list[SetSize], Distinct] = Field(
        [3, 5, 10], min_length=1, description="Sizes of the ablated sets."
    )
    selection_sizes: Annotated[list[Count], Distinct] = Field(
        [10], min_length=1, description="Sizes of the sets by which selection rules are compared."
    )
    selection_draws: int = Field(
        10, ge=0, description="Random subsets of each selection rule's features, for every size."
    )
    random_draws: int = Field(
        20,
        ge=20,
        description="Random pools, each as large as the candidates and ranked as they are: of every "
        "candidate and its matched random features one; the smallest possible p is 1 / (1 + pools).",
    )
    bootstrap: Count = Field(2000, description="Bootstrap resamples for 95 % intervals.")
    chosen: str | None = Field(
        None,
        description="CSV file with the columns `layer` and `feature`, such as the explorer exports: features "
        "of your own, which the target `chosen` ablates.",
    )

    @model_validator(mode="after")
    def headline_is_made(self) -> AblationConfig:
        """The headline is one of the results, and all that is reported was measured before it is ranked."""
        if self.headline.scope not in self.scopes:
            raise ValueError(
                f"headline.scope: found '{self.headline.scope}', expected one of `scopes`, {self.scopes}; "
                "name one of them, or add it to `scopes`"
            )
        if self.headline.size not in self.set_sizes:
            raise ValueError(
                f"headline.size: found {self.headline.size}, expected one of `set_sizes`, {self.set_sizes}; "
                "name one of them, or add it to `set_sizes`"
            )
        if self.candidates < (largest := max(self.set_sizes)):
            raise ValueError(
                f"candidates: found {self.candidates}, expected at least {largest}, the largest of "
                f"`set_sizes` {self.set_sizes}: a set is made of candidates; raise `candidates`, or leave "
                "that size out"
            )
        if self.verified < (largest := max([self.single_features, *self.set_sizes])):
            raise ValueError(
                f"verified: found {self.verified}, expected at least {largest}, the most features that "
                "single_features and set_sizes report; raise `verified`, or lower these"
            )
        return self


class SteeringConfig(Section):
    """Adding directions to the residual stream (docs/understand/evaluate_steering.md)."""

    concepts: Annotated[list[Name], Distinct] = Field(
        min_length=1, description="Concepts whose final features are used."
    )
    model: Name = Field(description="Model that is steered; it must answer some questions wrong.")
    features: Count = Field(3, description="How many of the best-ranked final features are used.")
    strengths: list[float] = Field(
        [-0.5, -0.25, 0.1, 0.25, 0.5, 1.0],
        min_length=1,
        description="Lengths of what is added, in units of the mean residual norm at the layer.",
    )
    rank_on: CausalData = Field(description="Validation data: vectors and strengths come from here.")
    report_on: CausalData = Field(
        description="Test data: results are reported here (docs/understand/hold_out.md)."
    )
    random_draws: int = Field(
        20,
        ge=20,
        description="Pools of random directions, each as large as the number of arms; a pool costs the "
        "validation of all arms.",
    )
    bootstrap: Count = Field(2000, description="Bootstrap resamples for 95 % intervals.")

    @model_validator(mode="before")
    @classmethod
    def old_key(cls, values: Any) -> Any:
        """See `check_one_concept`."""
        return check_one_concept(values)

    @model_validator(mode="after")
    def strengths_steer(self) -> SteeringConfig:
        """Nothing added is no arm; a strength counts once."""
        if 0 in self.strengths or len(set(self.strengths)) < len(self.strengths):
            raise ValueError(f"strengths: expected different numbers other than 0; found {self.strengths}")
        return self


class HeadMeans(Section):
    """General questions that give the mean outputs of heads (docs/understand/evaluate_head_ablation.md)."""

    dataset: DatasetName = Field(description="The data set, or groups of one; not one that is reported on.")
    samples: Count = Field(300, description="How many of its samples, from the first on.")


class HeadsConfig(Section):
    """Attribution patching, exact patching and head ablation (docs/understand/method.md section 8)."""

    concepts: Annotated[list[Name], Distinct] = Field(
        min_length=1, description="Concepts whose final features are traced."
    )
    features: Count = Field(6, description="How many of the best-ranked final features are traced to heads.")
    dataset: DatasetName = Field(
        description="Samples for attribution and patching: a data set, or groups of one."
    )
    samples: Count = Field(96, description="How many of them, from the first on.")
    exact_heads: Count | None = Field(
        None,
        description="Heads of the highest attribution that are patched exactly, with as many random ones; "
        "left out: all heads.",
    )
    image_samples: Count = Field(
        300,
        description="How many samples of `dataset` with an image, from the first on, give the mean image; "
        "attention is mapped on those of them that a feature fires most on.",
    )
    ablate_sizes: Annotated[list[Count], Distinct] = Field(
        [1, 2, 3], min_length=1, description="Numbers of heads ablated together."
    )
    random_draws: int = Field(
        20, ge=1, description="Random sets of heads for each size; fewer where their blocks have fewer."
    )
    head_means: HeadMeans = Field(description="What an ablated head's output is replaced by: its mean here.")
    report_on: CausalData = Field(
        description="Test data: results are reported here (docs/understand/hold_out.md)."
    )
    bootstrap: Count = Field(
        2000,
        description="Bootstrap resamples for 95 % intervals: of samples, and of features for the agreement.",
    )

    @model_validator(mode="before")
    @classmethod
    def old_keys(cls, values: Any) -> Any:
        """Heads are ranked by `dataset`; what was called `rank_on` gave means alone, of its control."""
        check_one_concept(values)
        if isinstance(values, dict) and "mean_samples" in values:
            raise ValueError(
                f"mean_samples: now called `image_samples`; write `image_samples: {values['mean_samples']}`"
            )
        if isinstance(values, dict) and "rank_on" in values:
            raise ValueError(
                "rank_on: no longer a key, for nothing was ranked on it; write `head_means: {dataset: …, "
                "samples: …}` with what was its `control`"
            )
        if isinstance(values, dict) and "head_means" not in values:
            raise ValueError(
                "head_means: missing; write `head_means: {dataset: …, samples: 300}` with general questions "
                "that are not reported on: an ablated head's output is replaced by its mean over them"
            )
        return values

    @model_validator(mode="after")
    def mean_needs_samples(self) -> HeadsConfig:
        """A mean image over a single sample would be that sample."""
        if self.image_samples < 2:
            raise ValueError(f"image_samples must be at least 2; found {self.image_samples}")
        return self

"""`world.real_model`: a real language model that is taught to see the built-in world."""

from typing import Literal

from pydantic import Field

from vlmdiff.config.base import Section


class LoRA(Section):
    """Adapters of low rank on the language model's linear layers."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of each adapter.")
    alpha: float = Field(32, gt=0, description="An adapter's product is scaled by alpha / rank.")
    modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Names of the linear layers that get one, or all of them."
    )


class RealTuning(Section):
    """Tuning of the adapters on questions about images, many about each image at once."""

    steps: int = Field(480, ge=4, le=1_000_000, description="Optimiser steps.")
    images: int = Field(16, ge=1, le=4096, description="Images a step.")
    questions: int = Field(6, ge=1, le=256, description="Questions about each image.")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="AdamW peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay.")
    warmup_steps: int = Field(30, ge=0, le=100_000, description="Steps of linear warm-up.")
    decay_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of all steps over which the learning rate decays at the end."
    )
    judge_from: float = Field(
        0.25, ge=0, le=1, description="Share of all steps after which statements are asked."
    )
    binding_weight: float = Field(
        0.5, ge=0, le=10, description="Loss weight of a shape of a question that follows a colour."
    )
    skew: float = Field(
        0.8, ge=0, le=1, description="Probability of stating only `left of` and `above` at first."
    )
    skew_until: float = Field(0.6, ge=0, le=1, description="Share of all steps by which that skew has faded.")
    retention_texts: int = Field(
        8,
        ge=0,
        le=1024,
        description="Paragraphs of plain text a step on which it is held to what it said before; 0: none.",
    )
    retention_weight: float = Field(
        1.0, gt=0, le=100, description="Loss weight of the divergence from before, in nats a token."
    )
    projector: Literal["tuned", "frozen"] = Field(
        "tuned", description="Whether the projector is tuned too, or stays as it was fitted."
    )
    check_every: int = Field(
        25, ge=1, le=100_000, description="Steps between two validations, and two checkpoints."
    )
    validation_images: int = Field(
        48, ge=1, le=2_000, description="Validation images, about each of which every kind is asked."
    )
    compile: bool = Field(
        False, description="Compile blocks (torch.compile): faster, where there is a C++ compiler."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Number format that models are computed in; adapters are float32."
    )


class RealModel(Section):
    """A language model from elsewhere in place of the world's own; everything is said in English then."""

    base: str = Field(description="The language model: a folder, `hub:…` or `pypi:…`, as in `models`.")
    lora: LoRA = Field(LoRA(), description="Adapters.")
    tuning: RealTuning = Field(RealTuning(), description="Visual instruction tuning.")

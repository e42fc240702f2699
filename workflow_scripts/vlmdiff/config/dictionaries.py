"""Dictionaries: their architecture and the stages that they go through."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vlmdiff.config.base import Count, Name, Section, TokenType
from vlmdiff.config.sources import Source


class ArchitectureConfig(Section):
    """The shape of every dictionary of an experiment (docs/method.md section 4)."""

    kind: Literal["topk", "jumprelu"] = Field("topk", description="Activation function.")
    d_sae: Count = Field(1024, description="Number of features of one dictionary.")
    k: Count = Field(8, description="TopK: active features a token. JumpReLU: the target L0.")
    bandwidth: float = Field(0.001, gt=0, description="JumpReLU: width of the straight-through rectangle.")
    l0_coefficient: float = Field(1.0, ge=0, description="JumpReLU: weight c of c (L0/target - 1)^2.")
    subtract_decoder_bias: bool = Field(True, description="Subtract b_dec from the input of the encoder.")


class DictionaryStage(Section):
    """One stage of a dictionary: where it starts, what it sees, how long it trains."""

    initial: str = Field("random", description="`random`, or the dictionary whose weights it starts from.")
    model: Name = Field(description="The model whose residual stream it reconstructs.")
    dataset: Name = Field(description="The data set that the model is shown.")
    tokens: list[TokenType] = Field(["text"], min_length=1, description="Token types that the loss sees.")
    steps: Count = Field(description="Optimiser steps.")
    batch_tokens: Count = Field(1024, description="Tokens in one step.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of Adam.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Fraction of steps with a rising learning rate.")
    snapshots: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [], description="Percentages of training after which a copy is kept, beside the final one."
    )

    @model_validator(mode="after")
    def snapshots_rise(self) -> DictionaryStage:
        """Refuse snapshots that are doubled or out of order."""
        if sorted(set(self.snapshots)) != self.snapshots:
            raise ValueError(f"snapshots must rise, e.g. [25, 50, 75]; found {self.snapshots}")
        return self


class PublishedDictionary(Section):
    """A dictionary that others trained; it takes the place of a training stage (docs/import_dictionary.md)."""

    source: Source = Field(description="Local folder, or `hub:OWNER/NAME@REVISION`.")
    format: Literal["llama_scope", "gemma_scope", "mmdiff", "saelens", "vlmdiff"] = Field(
        description="Layout in which it was published."
    )
    file: str = Field(
        description="Path of one layer's folder or file in the source; `{layer}` stands for the layer and "
        "`{NAME}` for a value of `by_layer`."
    )
    by_layer: dict[Name, dict[int, str | int]] = Field(
        {}, description="Parts of `file` that differ from layer to layer: for each name a value a layer."
    )
    k: Count | None = Field(None, description="MMDiff TopK: active features a token, not in its files.")
    initial: str = Field(
        "random", description="The dictionary whose feature indices it keeps; `random` if none."
    )

    @property
    def snapshots(self) -> list[int]:
        """Published dictionaries come without copies from their training."""
        return []


def stage_kind(value: Any) -> str:
    """Tell a published dictionary, which has a `source`, from one that is trained."""
    published = "source" in value if isinstance(value, dict) else isinstance(value, PublishedDictionary)
    return "published" if published else "trained"


Stage = Annotated[
    Annotated[DictionaryStage, Tag("trained")] | Annotated[PublishedDictionary, Tag("published")],
    Discriminator(stage_kind),
]


class EvaluationSet(Section):
    """Held-out activations that dictionaries are scored on."""

    dictionaries: list[Name] = Field(min_length=1, description="Dictionaries that are scored.")
    model: Name = Field(description="Model that makes the activations.")
    dataset: Name = Field(description="Data set that it is shown.")
    tokens: list[TokenType] = Field(
        ["text", "image"], min_length=1, description="Token types that are scored, where there are any."
    )

"""Dictionaries: their architecture and the stages that they go through."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlmdiff.config.base import Count, Name, Section, TokenType


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


class EvaluationSet(Section):
    """Held-out activations that dictionaries are scored on."""

    dictionaries: list[Name] = Field(min_length=1, description="Dictionaries that are scored.")
    model: Name = Field(description="Model that makes the activations.")
    dataset: Name = Field(description="Data set that it is shown.")

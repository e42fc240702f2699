"""How long and how a dictionary is trained, and which trainings can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from vlmdiff.config.base import Count, Section
from vlmdiff.config.defaults import decided, prefix_sizes, rising_steps, unread


class ArchitectureConfig(Section):
    """The shape of every dictionary of an experiment (docs/understand/method.md section 4)."""

    kind: Literal["topk", "batch_topk", "matryoshka", "jumprelu"] = Field(
        "topk",
        description="Activation function; `matryoshka` is `batch_topk` whose first features also reconstruct "
        "alone. Both are stored as JumpReLU with the threshold that they reached.",
    )
    d_sae: Count = Field(1024, description="Number of features of one dictionary.")
    k: Count = Field(
        8,
        description="TopK: active features a token; BatchTopK and Matryoshka: on average. JumpReLU: the "
        "target L0.",
    )
    prefixes: list[PositiveFloat] | None = Field(
        None,
        min_length=1,
        description="Matryoshka: how many of the first features reconstruct by themselves, rising: below 1 a "
        "fraction of `d_sae`, else a number. All together always do. Left out: 1/32, 3/32, 7/32, 15/32.",
    )
    bandwidth: float = Field(0.001, gt=0, description="JumpReLU: width of the straight-through rectangle.")
    l0_coefficient: float = Field(1.0, ge=0, description="JumpReLU: weight c of c (L0/target - 1)^2.")
    reconstruction: Literal["fvu", "mse"] = Field(
        "fvu",
        description="Reconstruction term of the loss: the fraction of variance unexplained, or the squared "
        "error summed over dimensions and averaged over tokens.",
    )
    subtract_decoder_bias: bool = Field(
        True,
        description="Subtract b_dec from the input of the encoder; a warm start keeps what it starts from.",
    )

    @model_validator(mode="after")
    def prefixes_rise(self) -> ArchitectureConfig:
        """Refuse prefixes of another kind, and those that are no rising parts of the dictionary."""
        if self.kind != "matryoshka":
            if self.prefixes is not None:
                raise ValueError(
                    f"prefixes: found with kind {self.kind}, but only matryoshka has them; leave them out, "
                    "or set `kind: matryoshka`"
                )
            return self
        sizes = prefix_sizes(self.prefixes, self.d_sae)
        whole = all(one < 1 or one == int(one) for one in self.prefixes or ())
        if not whole or sizes != sorted(set(sizes)):
            raise ValueError(
                f"prefixes: found {self.prefixes or 'none'}, which are {sizes[:-1]} of d_sae = {self.d_sae} "
                "features, expected fractions below 1 or whole numbers that rise and stay below d_sae; the "
                "whole dictionary always counts and is not named"
            )
        return self


class Budget(Section):
    """How a dictionary was trained; cosines are compared between equal budgets alone."""

    steps: Count = Field(description="Optimiser steps.")
    batch_tokens: Count = Field(1024, description="Tokens in one step.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of Adam.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning rate after the warm-up: a cosine to zero, or the peak."
    )
    warmup: float = Field(
        0.05, ge=0, description="Warm-up of the learning rate: below 1 a fraction of `steps`, else steps."
    )
    sparsity_warmup: float = Field(
        0.0, ge=0, description="JumpReLU: the penalty's weight rises over this fraction or number of steps."
    )
    gradient_clip_norm: PositiveFloat | None = Field(
        None, description="A gradient of a larger norm, over all parameters, is scaled down to it."
    )
    decoder: Literal["trained", "frozen"] = Field(
        "trained",
        description="`frozen`: the decoder stays as it starts (docs/understand/scoreboard.md).",
    )
    auxk_coefficient: NonNegativeFloat | None = Field(
        None,
        description="TopK, BatchTopK, Matryoshka: weight of the auxiliary loss that brings dead features "
        "back, 0 for none; left out: 1/32 if `initial` is random, else 0.",
    )
    dead_after_tokens: Count | None = Field(
        None,
        description="Tokens without a firing after which a feature counts as dead; left out: a tenth of the "
        "training's, at most 10 million.",
    )
    architecture: ArchitectureConfig | None = Field(
        None, description="Its own shape; left out: `architecture` of the experiment."
    )

    @model_validator(mode="after")
    def warmups_end(self) -> Budget:
        """Refuse a warm-up that is no number of steps, or that the training does not outlast."""
        for name in ("warmup", "sparsity_warmup"):
            value = getattr(self, name)
            rising = rising_steps(value, self.steps)
            # A training of one step has its default warm-up in that step.
            if value >= 1 and value != rising or rising >= self.steps and (value >= 1 or self.steps > 1):
                found = f"{value:.12g}" + (f", which is all {self.steps} steps" if value < 1 else "")
                raise ValueError(
                    f"{name}: found {found}, expected a fraction below 1 or a whole number of steps below "
                    f"steps = {self.steps}"
                )
        return self

    def compared(self, experiment: ArchitectureConfig, warm: bool) -> dict[str, Any]:
        """Return by name what must agree: all that the training reads, warm-ups in steps, and the shape.

        Args:
            experiment: the shape where it names none of its own.
            warm: it starts from another dictionary.
        """
        given = {name: getattr(self, name) for name in Budget.model_fields if name != "architecture"}
        shape = (self.architecture or experiment).model_dump(exclude={"subtract_decoder_bias"})
        values = decided(given | shape, warm)
        for name in ("warmup", "sparsity_warmup"):
            values[name] = rising_steps(values[name], self.steps)
        return {name: value for name, value in values.items() if name not in unread(values)}


def differences(one: Sequence[dict[str, Any]], two: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield in words how two ways of being trained differ, each a list of trainings in order."""
    if len(one) != len(two):
        yield f"{len(one)} against {len(two)} trainings"
        return
    for number, (first, second) in enumerate(zip(one, two, strict=True), 1):
        stage = f" of training {number}" if len(one) > 1 else ""
        # What one kind alone reads is not compared across kinds, which differ anyway.
        for name in (name for name in first if name in second):
            if first[name] != second[name]:
                yield f"{name}{stage} {first[name]} against {second[name]}"


def check_losses(key: str, budget: Budget, shape: ArchitectureConfig) -> None:
    """Refuse a part of the loss that the architecture does not have.

    Args:
        key: where the dictionary stands in the configuration.
        budget: how it is trained.
        shape: its architecture.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    if budget.sparsity_warmup and shape.kind != "jumprelu":
        raise ValueError(
            f"{key}.sparsity_warmup: found {budget.sparsity_warmup:g}, but only JumpReLU has a sparsity "
            f"penalty, and its architecture is {shape.kind}; leave it out"
        )
    if budget.auxk_coefficient and shape.kind == "jumprelu":
        raise ValueError(
            f"{key}.auxk_coefficient: found {budget.auxk_coefficient:g}, but only TopK has an auxiliary "
            f"loss, and this is {shape.kind}; leave it out"
        )

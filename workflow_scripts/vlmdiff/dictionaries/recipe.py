"""How one dictionary is trained: plain values, checked by the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdiff.config.defaults import LONGEST_SILENCE, decided
from vlmdiff.dictionaries.batch_topk import BatchTopKDictionary
from vlmdiff.dictionaries.matryoshka import MatryoshkaDictionary
from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.schedules import learning_rate_factor, sparsity_factor


@dataclass(frozen=True)
class Sampling:
    """Which tokens are looked at to estimate a scale; the names are those of `Recipe`."""

    tokens: Sequence[str]
    batch_tokens: int = 1024


@dataclass(frozen=True)
class Recipe:
    """Architecture and stage of a dictionary (docs/understand/train_dictionary.md explains each value).

    The names are those of the configuration's sections `architecture` and `dictionaries.<name>`.
    `subtract_decoder_bias` is for random starts: a warm start keeps what it starts from.
    """

    kind: str
    d_sae: int
    k: int
    bandwidth: float
    l0_coefficient: float
    subtract_decoder_bias: bool
    tokens: Sequence[str]
    steps: int
    batch_tokens: int
    learning_rate: float
    warmup: float
    snapshots: Sequence[int]
    schedule: str = "cosine"
    gradient_clip_norm: float | None = None
    sparsity_warmup: float = 0.0
    decoder: str = "trained"
    reconstruction: str = "fvu"
    prefixes: Sequence[int] | None = None
    auxk_coefficient: float = 0.0
    dead_after_tokens: int = LONGEST_SILENCE
    precision: str = "tf32"
    devices: int = 1
    nodes: int = 1

    @property
    def processes(self) -> int:
        """How many processes train it together."""
        return self.devices * self.nodes

    @classmethod
    def from_params(
        cls, architecture: Mapping[str, Any], stage: Mapping[str, Any], initial: str | Path = "random"
    ) -> Recipe:
        """Put the two sections of the configuration together, and decide what they leave open.

        Args:
            architecture, stage: the sections.
            initial: `random`, or where the training starts.
        """
        return cls(**decided({**architecture, **stage}, warm=initial != "random"))

    def build(self, d_model: int) -> Dictionary:
        """Return a dictionary of this architecture with empty weights."""
        if self.kind == "matryoshka":
            return MatryoshkaDictionary(
                d_model, self.d_sae, self.k, self.prefixes, self.subtract_decoder_bias
            )
        if self.kind != "jumprelu":
            kind = TopKDictionary if self.kind == "topk" else BatchTopKDictionary
            return kind(d_model, self.d_sae, self.k, self.subtract_decoder_bias)
        return JumpReLUDictionary(d_model, self.d_sae, self.bandwidth, self.subtract_decoder_bias)

    def rate_factor(self, step: int) -> float:
        """Return the fraction of the peak learning rate at a step, counted from 0."""
        return learning_rate_factor(step, self.steps, self.warmup, self.schedule)

    def penalty_weight(self, step: int) -> float:
        """Return the weight of JumpReLU's penalty at a step, counted from 0."""
        return self.l0_coefficient * sparsity_factor(step, self.steps, self.sparsity_warmup)

    def snapshot_steps(self) -> dict[int, list[int]]:
        """Return the percentages of the training that each step completes, by step, counted from 1.

        In a short training several percentages are reached by one step.
        """
        found: dict[int, list[int]] = {}
        for percent in self.snapshots:
            found.setdefault(-(-self.steps * percent // 100), []).append(percent)
        return found

"""The order in which visual questions are taught: phases that open when validation allows.

Truth of a statement is a parity of relation and position, which gradient descent does not find
from nothing. So a model first learns where things are, then how two places compare, and only
then whether a statement is true.
"""

import random
from dataclasses import dataclass, field

from vlmdiff.config.world import Tuning
from vlmdiff.world.language import (
    MAKERS,
    QUESTION_KINDS,
    RELATIONS,
    Exchange,
    statement,
)
from vlmdiff.world.scenes import Scene

BASE_MIX = {
    "statement": 0.30,
    "relation": 0.15,
    "row": 0.06,
    "column": 0.06,
    "caption": 0.15,
    "description": 0.10,
    "shape": 0.05,
    "colour": 0.08,
    "size": 0.04,
    "existence": 0.07,
    "count": 0.06,
}
SKEWED_RELATIONS = ("left of", "above")


class FirstGateClosedError(RuntimeError):
    """The model has not learned to locate objects in time; another seed may."""


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum: changes of the mix, and the kinds whose accuracy ends it."""

    name: str
    factors: dict[str, float] = field(default_factory=dict)
    gate: tuple[str, ...] = ()


LOCATE = Phase(
    "locate",
    {"statement": 0, "description": 3, "row": 2, "column": 2},
    gate=("row", "column"),
)
COMPARE = Phase("compare", {"statement": 0.3, "relation": 2.0}, ("relation",))
JUDGE = Phase("judge", {"statement": 2.0, "count": 3.0}, QUESTION_KINDS)
SETTLE = Phase("settle")
PHASES = (LOCATE, COMPARE, JUDGE, SETTLE)


@dataclass
class Curriculum:
    """Where a tuning run stands: its phase, and the step at which that phase began."""

    settings: Tuning
    phase_index: int = 0
    phase_start: int = 0

    @property
    def phase(self) -> Phase:
        """The phase that the run is in."""
        return PHASES[self.phase_index]

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None until the learning rate has begun to decay."""
        if self.phase is not SETTLE:
            return None
        return max(round(self.phase_start / (1 - self.settings.decay_fraction)), self.phase_start + 1)

    def mix(self) -> dict[str, float]:
        """Weight of each kind of exchange in this phase."""
        return {kind: weight * self.phase.factors.get(kind, 1.0) for kind, weight in BASE_MIX.items()}

    def skew(self, step: int) -> float:
        """Probability of asking about the skewed relations only.

        With all relations equally frequent, statements stay at chance; the skew breaks the parity.
        """
        if self.phase is SETTLE:
            return 0.0
        faded = (step - self.phase_start) / self.settings.skew_steps if self.phase is JUDGE else 0.0
        return self.settings.skew * max(0.0, 1.0 - faded)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, then linear decay through the last phase."""
        peak = self.settings.learning_rate
        if self.total_steps is not None:
            return peak * (self.total_steps - step + 1) / (self.total_steps - self.phase_start)
        return peak * min(1.0, step / max(1, self.settings.warmup_steps))

    def draw(self, scene: Scene, step: int, rng: random.Random) -> Exchange:
        """Draw the exchange that teaches this scene at this step."""
        mix = self.mix()
        kind = rng.choices(list(mix), list(mix.values()))[0]
        if kind == "statement":
            skewed = rng.random() < self.skew(step)
            return statement(scene, rng, SKEWED_RELATIONS if skewed else tuple(RELATIONS))
        return MAKERS[kind](scene, rng)

    def update(self, step: int, accuracy: dict[str, float]) -> None:
        """Open the next phase if its gate is reached, or if the steps are running out.

        Raises:
            FirstGateClosedError: if objects are still not located after `patience` steps.
        """
        if self.phase is SETTLE:
            return
        out_of_time = step >= self.settings.max_steps * (1 - self.settings.decay_fraction)
        if out_of_time:
            self._enter(SETTLE, step)
        elif all(accuracy[kind] >= self._threshold() for kind in self.phase.gate):
            self._enter(PHASES[self.phase_index + 1], step)
        elif self.phase is LOCATE and step >= self.settings.patience:
            found = {kind: round(accuracy[kind], 3) for kind in self.phase.gate}
            raise FirstGateClosedError(
                f"after {step} steps accuracy is {found}, and {self.settings.gate} is needed: "
                "try another seed, a smaller learning_rate or more patience"
            )

    def _threshold(self) -> float:
        return self.settings.finish if self.phase is JUDGE else self.settings.gate

    def _enter(self, phase: Phase, step: int) -> None:
        self.phase_index, self.phase_start = PHASES.index(phase), step

"""What is asked at which step while a real language model learns to see."""

import random
from dataclasses import dataclass

from vlmdiff.config.real_model import RealTuning
from vlmdiff.world.language import GENERAL_KINDS, RELATIONS, Exchange
from vlmdiff.world.real.english import MAKERS, statement
from vlmdiff.world.scenes import Scene

BASE_MIX = {
    "statement": 0.15,
    "relation": 0.20,
    "row": 0.12,
    "column": 0.12,
    "caption": 0.06,
    "description": 0.06,
    "shape": 0.07,
    "colour": 0.07,
    "size": 0.05,
    "existence": 0.06,
    "count": 0.04,
}
STATEMENT_FACTOR = 3.0
# The mix once statements weigh more, which data sets have too.
TAUGHT_MIX = BASE_MIX | {"statement": STATEMENT_FACTOR * BASE_MIX["statement"]}
SKEWED_RELATIONS = ("left of", "above")


@dataclass(frozen=True)
class Curriculum:
    """The mix of exchanges, and the learning rate, by step; fixed beforehand, so that controls have the same.

    Places come first, statements weigh more later: whether one is true is a parity of relation and place.
    """

    settings: RealTuning
    spatial: bool = True

    def mix(self, step: int) -> dict[str, float]:
        """Return the weight of each kind of exchange at a step."""
        judging = step > self.settings.judge_from * self.settings.steps
        weights = TAUGHT_MIX if judging else BASE_MIX
        return weights if self.spatial else {kind: weights[kind] for kind in GENERAL_KINDS}

    def skew(self, step: int) -> float:
        """Return the probability of stating only some relations; it fades, for it breaks the parity."""
        until = self.settings.skew_until * self.settings.steps
        return self.settings.skew * max(0.0, 1 - step / until) if until else 0.0

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear warm-up, constant, linear decay."""
        peak, steps = self.settings.learning_rate, self.settings.steps
        decay = max(1, round(steps * self.settings.decay_fraction))
        return peak * min(1.0, step / max(1, self.settings.warmup_steps), (steps - step + 1) / decay)

    def draw(self, scene: Scene, step: int, rng: random.Random) -> Exchange:
        """Draw one exchange about a scene."""
        mix = self.mix(step)
        kind = rng.choices(list(mix), list(mix.values()))[0]
        if kind == "statement":
            skewed = rng.random() < self.skew(step)
            return statement(scene, rng, SKEWED_RELATIONS if skewed else tuple(RELATIONS))
        return MAKERS[kind](scene, rng)

"""What is asked at which step while a real language model learns to see."""

import random
from dataclasses import dataclass

from vlmdiff.config.real_model import RealTuning
from vlmdiff.world.language import GENERAL_KINDS, RELATIONS, Exchange
from vlmdiff.world.real.english import MAKERS, statement
from vlmdiff.world.scenes import Scene

BASE_MIX = {
    "statement": 0.0,
    "relation": 0.20,
    "row": 0.14,
    "column": 0.14,
    "caption": 0.06,
    "description": 0.10,
    "shape": 0.05,
    "colour": 0.06,
    "size": 0.10,
    "existence": 0.08,
    "count": 0.07,
}
# The mix once objects are located, which data sets have too.
TAUGHT_MIX = BASE_MIX | {"statement": 1.2}
SKEWED_RELATIONS = ("left of", "above")


@dataclass(frozen=True)
class Curriculum:
    """The mix of exchanges, and the learning rate, by step; fixed beforehand, so that controls have the same.

    Places come first, statements later: whether one is true is a parity of relation and place. Stating some
    relations only, at first, breaks it.
    """

    settings: RealTuning
    spatial: bool = True

    @property
    def judges_from(self) -> float:
        """The step after which statements are asked."""
        return self.settings.judge_from * self.settings.steps

    def mix(self, step: int) -> dict[str, float]:
        """Return the weight of each kind of exchange at a step."""
        weights = TAUGHT_MIX if step > self.judges_from else BASE_MIX
        return weights if self.spatial else {kind: weights[kind] for kind in GENERAL_KINDS}

    def skew(self, step: int) -> float:
        """Return the probability of stating only some relations; it fades once statements are asked."""
        lasts = self.settings.skew_until * self.settings.steps - self.judges_from
        faded = (step - self.judges_from) / lasts if lasts > 0 else 1.0
        return self.settings.skew * min(1.0, max(0.0, 1 - faded))

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

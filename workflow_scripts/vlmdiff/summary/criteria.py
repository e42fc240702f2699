"""When a claim holds: fixed limits with their reasons, chosen before looking at results.

An intervention is *specific* if it (1) lowers the target: the 95 % interval lies below 0; (2) beats
chance directions: a Monte-Carlo test against matched random draws (Phipson and Smyth 2010) gives
p <= 0.05; (3) spares the control: the control loses at most a third of what the target loses, and
the two intervals do not overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from scipy.stats import norm

# The held-out accuracy below which an analysis of what the model understands makes little sense.
ACCURACY_GOAL = 0.95
# A control within five points of chance is at chance: two interval half-widths at 1,200 samples.
CHANCE_BAND = 0.05
# Conventional test level; 20 random draws can just reach it (1 / 21).
LEVEL = 0.05
# Power at which a smallest detectable effect is told; the convention of study design.
POWER = 0.80
# In the published experiments the control lost under a tenth of the target; a third is generous.
CONTROL_SHARE = 1 / 3
# Share of the selected features that the null would give too; the usual false discovery rate.
NULL_SHARE = 0.10
# A rank correlation from 0.7 on explains about half of the variance of the ranks.
AGREEMENT = 0.70


@dataclass(frozen=True)
class Effect:
    """A change with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One intervention: target and control beside the same of matched random draws."""

    target: Effect
    control: Effect
    random: tuple[float, ...]
    random_control: tuple[float, ...]

    @property
    def p_random(self) -> float:
        """Monte-Carlo p: share of draws that hurt the target at least as much, the selected counted in."""
        finite = [value for value in self.random if not math.isnan(value)]
        return (1 + sum(value <= self.target.value for value in finite)) / (1 + len(finite))

    def failures(self) -> list[str]:
        """Return in words which parts of the criterion fail; none if the effect is specific.

        Without a fall of the target there is nothing to compare, so that is then the only failure.
        """
        target, control = self.target, self.control
        if not target.high < 0:
            return ["target does not fall"]
        failed = []
        if not self.p_random <= LEVEL:
            failed.append(f"random draws do as much, p = {self.p_random:.2f}")
        if not abs(control.value) <= CONTROL_SHARE * abs(target.value):
            failed.append("control not spared")
        elif not target.high < control.low:
            failed.append("intervals of target and control overlap")
        return failed


def effect(row: pd.Series, measure: str) -> Effect:
    """Read accuracy or margin from a row with the columns of EFFECT."""
    low, high = ("delta_low", "delta_high") if measure == "accuracy" else ("margin_low", "margin_high")
    return Effect(float(row[f"delta_{measure}"]), float(row[low]), float(row[high]))


def compare(
    chosen: pd.DataFrame, random: pd.DataFrame, target: str, control: str, measure: str
) -> Comparison | None:
    """Put one selected intervention beside its random draws; None if a data set is missing.

    Args:
        chosen: the rows of one intervention, columns of EFFECT, group `all` only.
        random: the rows of the random draws of the same size and scope.
        target, control: names of the data sets.
        measure: accuracy or margin.
    """
    rows = {name: chosen[chosen["dataset"] == name] for name in (target, control)}
    if any(part.empty for part in rows.values()):
        return None
    draws = {
        name: tuple(random.loc[random["dataset"] == name, f"delta_{measure}"].astype(float)) for name in rows
    }
    return Comparison(
        effect(rows[target].iloc[0], measure),
        effect(rows[control].iloc[0], measure),
        draws[target],
        draws[control],
    )


def smallest_detectable(low: float, high: float) -> float:
    """Return the effect that a two-sided test at 5 % would find with 80 % power: `(z_.975 + z_.80) SE`.

    Args:
        low, high: 95 % interval of the effect; its width gives the standard error.
    """
    z = norm.ppf(1 - LEVEL / 2)
    return float((z + norm.ppf(POWER)) * (high - low) / (2 * z))


def at_chance(accuracy: float, chance: float) -> bool:
    """Tell whether an accuracy is at chance, up to the band."""
    return abs(accuracy - chance) <= CHANCE_BAND

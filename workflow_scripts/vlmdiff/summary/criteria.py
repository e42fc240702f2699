"""When a claim holds: fixed limits with their reasons, chosen before looking at results.

An intervention is *specific* if it (1) lowers the target: the 95 % interval lies below 0; (2) beats chance:
a Monte-Carlo test against random draws that were chosen as it was (Phipson and Smyth 2010) gives p <= 0.05;
(3) spares the control: an equivalence test (two one-sided tests, Schuirmann 1987) shows that the control
changes by less than a third of the target's fall. All three must hold, so each may be tested at the full
level (intersection-union test, Berger 1982), and the largest p is that of the claim. With so few draws that
even the smallest possible p is above 0.05 nothing can be tested, neither a success nor a failure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests

# Conventional test level; 20 random draws can just reach it (1 / 21).
LEVEL = 0.05
# The power for which the smallest detectable effect is given.
POWER = 0.80
# In the published experiments the control lost under a tenth of the target; a third is generous.
CONTROL_SHARE = 1 / 3
# Share of the selected features that the null would give too; the usual false discovery rate.
NULL_SHARE = 0.10
# A rank correlation from 0.7 on explains about half of the variance of the ranks.
AGREEMENT = 0.70


@dataclass(frozen=True)
class Effect:
    """A change with its 95 % interval.

    Attributes:
        value, low, high: the change and the ends of its interval.
    """

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Standard error, from the width of the interval."""
        return (self.high - self.low) / (2 * norm.ppf(1 - LEVEL / 2))

    @property
    def detectable(self) -> float:
        """Smallest effect that a two-sided test at 0.05 would find with a power of 0.8."""
        return smallest_detectable(self.low, self.high)

    @property
    def p_fall(self) -> float:
        """Two-sided p that there is no fall; 1 if there is a rise."""
        return 2 * tail_below(self.value, self.error) if self.value < 0 else 1.0


def monte_carlo_p(as_extreme: Sequence[bool]) -> float:
    """Return a Monte-Carlo p: the share of draws as extreme as what is tested, which is counted in.

    Args:
        as_extreme: for each random draw, whether it is.
    """
    return (1 + sum(as_extreme)) / (1 + len(as_extreme))


def tail_below(value: float, error: float) -> float:
    """Return the probability that a normal deviate around 0 lies below a value; certain without an error."""
    if math.isnan(value) or math.isnan(error):
        return 1.0
    return float(norm.cdf(value / error)) if error > 0 else float(value >= 0)


def over_seeds(effects: Sequence[Effect]) -> Effect:
    """Return the mean effect over seeds of dictionaries, with an interval for other seeds and other samples.

    The variance is that between seeds, over their number, and the mean sampling variance; the latter is not
    divided, for all seeds answer the same samples. Degrees of freedom by Satterthwaite (1946), of which the
    sampling part has no bound: the intervals that it comes from are wider already where clusters are few.
    """
    values = np.array([one.value for one in effects])
    count, mean = len(values), float(values.mean())
    between = float(values.var(ddof=1)) / count if count > 1 else 0.0
    sampling = float(np.mean([one.error**2 for one in effects]))
    freedom = (count - 1) * (1 + sampling / between) ** 2 if between > 0 else math.inf
    reach = float(t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(between + sampling)
    return Effect(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Comparison:
    """One intervention: target and control beside the same of random draws that were chosen alike."""

    target: Effect
    control: Effect
    random: tuple[float, ...]
    random_control: tuple[float, ...]

    @property
    def draws(self) -> list[float]:
        """What the random draws do to the target."""
        return [value for value in self.random if not math.isnan(value)]

    @property
    def least_p(self) -> float:
        """The least p that so many draws can give."""
        return 1 / (1 + len(self.draws))

    @property
    def testable(self) -> bool:
        """Whether there are draws enough to reach the level."""
        return self.least_p <= LEVEL

    @property
    def p_random(self) -> float:
        """Monte-Carlo p: share of draws that hurt the target at least as much, the selected counted in."""
        return monte_carlo_p([not value > self.target.value for value in self.draws])

    @property
    def p_spared(self) -> float:
        """p of the equivalence test: does the control change by at least a third of the target's fall?"""
        bound = -CONTROL_SHARE * self.target.value
        error = math.hypot(self.control.error, CONTROL_SHARE * self.target.error)
        return max(tail_below(-bound + sign * self.control.value, error) for sign in (-1, 1))

    @property
    def p(self) -> float:
        """p of the whole claim: the largest of its parts."""
        return max(self.target.p_fall, self.p_random, self.p_spared)

    def failures(self) -> list[str]:
        """Return in words which parts of the criterion fail; none if the effect is specific.

        Without a fall of the target there is nothing to compare, so that is then the only failure.
        """
        if not self.target.high < 0:
            return ["target does not fall"]
        failed = []
        if not self.p_random <= LEVEL:
            failed.append(f"random draws do as much, p = {self.p_random:.2f}")
        if not self.p_spared <= LEVEL:
            failed.append(f"control not shown to be spared, p = {self.p_spared:.2f}")
        return failed


def combined(by_seed: Mapping[int, Comparison]) -> Comparison:
    """Return the comparison of means over seeds: of target and control, and of each random draw.

    Draws of one number stand together, a pairing that is fixed before anything is measured: they are
    independent between seeds. Another pairing would give another p, so read it beside the p of each seed.
    """
    found = list(by_seed.values())
    return Comparison(
        over_seeds([one.target for one in found]),
        over_seeds([one.control for one in found]),
        *(
            tuple(float(np.mean(draws)) for draws in zip(*(getattr(one, name) for one in found)))
            for name in ("random", "random_control")
        ),
    )


def corrected(p: Sequence[float]) -> list[float]:
    """Return p corrected for being many by Holm's method (1979)."""
    return list(map(float, multipletests(p, method="holm")[1])) if len(p) else []


def effect(row: pd.Series, measure: str) -> Effect:
    """Read accuracy or margin from a row with the columns of EFFECT."""
    low, high = ("delta_low", "delta_high") if measure == "accuracy" else ("margin_low", "margin_high")
    value, low, high = (float(row[name]) for name in (f"delta_{measure}", low, high))
    return Effect(value, low, high)


def against_random(
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
        name: tuple(
            random.loc[random["dataset"] == name].sort_values("draw")[f"delta_{measure}"].astype(float)
        )
        for name in rows
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

"""What tests ask of a claim where there is nothing to be found, and where there is."""

from __future__ import annotations

from scipy.stats import binomtest


def at_most_one_in_twenty(hits: int, repetitions: int) -> None:
    """Hold a rate of false claims against 5 %: the Clopper-Pearson interval must end below 8 %."""
    print(f"{hits} of {repetitions} claims on nothing")  # shown by pytest -rP
    interval = binomtest(hits, repetitions).proportion_ci(0.95, method="exact")
    assert interval.high < 0.08, f"{hits} of {repetitions} claims on nothing"

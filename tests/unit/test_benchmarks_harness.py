"""The harness of the benchmarks: order of contestants, medians, goals."""

import numpy as np
import pytest
from benchmarks.harness import Goal, measure, ratio_row


@pytest.mark.long
def test_contestants_take_turns_in_a_turning_order():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure(contestants, rounds=3, warmup=1)
    assert calls == [*"abc", *"abc", *"bca", *"cab"]
    assert list(times) == [*"abc"] and len(times) == 3 and (times > 0).all(axis=None)


@pytest.mark.parametrize(
    ("goal", "shown", "holds"),
    [
        (Goal(least=2), ">= 2", "yes"),
        (Goal(least=2.5), ">= 2.5", "NO"),
        (Goal(most=2), "<= 2", "yes"),
        (Goal(most=1.9), "<= 1.9", "NO"),
        (Goal(aim="<= 2"), "", ""),
    ],
)
def test_medians_are_held_against_goals(goal, shown, holds):
    row = ratio_row("what", "size", "a / b", np.array([9.0, 2.0, 1.0]), goal)
    assert (row["median"], row["low"], row["high"]) == (2.0, 1.0, 9.0)
    assert (row["goal"], row["holds"]) == (shown, holds)

"""Interleaved rounds of contestants, and the table of their ratios."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

Work = Callable[[], object]
COLUMNS = ["what", "size", "ratio", "median", "low", "high", "goal", "aim", "holds"]


@dataclass(frozen=True)
class Goal:
    """What a ratio must reach: at least `least`, or at most `most`; `aim` is what would be better still."""

    least: float | None = None
    most: float | None = None
    aim: str = ""

    def holds(self, ratio: float) -> bool:
        """Tell whether a ratio reaches it."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)

    def __str__(self) -> str:
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"


def measure(contestants: Mapping[str, Work], rounds: int, warmup: int = 1) -> pd.DataFrame:
    """Time every contestant once a round, in an order that turns from round to round.

    Args:
        contestants: what to time, by name.
        rounds: how often.
        warmup: untimed runs of each before.

    Returns:
        seconds, a row a round and a column a contestant.
    """
    names = list(contestants)
    for name in names:
        for _ in range(warmup):
            contestants[name]()
    rows = []
    for number in range(rounds):
        row = {}
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            gc.collect()
            started = time.perf_counter()
            contestants[name]()
            row[name] = time.perf_counter() - started
        rows.append(row)
    return pd.DataFrame(rows)[names]


def ratio_row(
    what: str, size: str, ratio: str, values: pd.Series | np.ndarray | float, goal: Goal = Goal()
) -> dict[str, object]:
    """Return one row of the table from the ratios of all rounds."""
    values = np.atleast_1d(np.asarray(values, dtype=float))
    median = float(np.median(values))
    return {
        "what": what,
        "size": size,
        "ratio": ratio,
        "median": median,
        "low": float(values.min()),
        "high": float(values.max()),
        "goal": str(goal),
        "aim": goal.aim,
        "holds": "" if not str(goal) else "yes" if goal.holds(median) else "NO",
    }


def show(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, title="Medians of ratios within rounds")
    for row in rows:
        numbers = [f"{row[name]:.3g}" for name in ("median", "low", "high")]
        table.add_row(
            str(row["what"]), str(row["size"]), str(row["ratio"]), *numbers, str(row["goal"]),
            str(row["aim"]), str(row["holds"]),
        )  # fmt: skip
    Console(width=160).print(table)

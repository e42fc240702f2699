"""Pieces of Markdown: numbers with sensible digits, tables, escaped text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from vlmdiff.runtime.text import visible
from vlmdiff.summary.criteria import Effect

# Below it p are as good as 0 in double precision.
LEAST_P = 1e-300
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def escape(text: object) -> str:
    """Make text from data or config harmless in Markdown: no markup, no line breaks, nothing invisible."""
    line = re.sub(r"\s+", " ", str(text))
    return MARKUP.sub(r"\\\1", visible(line))


def percent(value: float) -> str:
    """Write a share in per cent with one decimal."""
    return "n/a" if math.isnan(value) else f"{100 * value:.1f} %"


def bracketed(value: float, low: float, high: float) -> str:
    """Write a share in per cent with its interval."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def change(value: float, measure: str) -> str:
    """Write a change: accuracy in percentage points, margin in logits."""
    if math.isnan(value):
        return "n/a"
    text = f"{100 * value:+.1f}" if measure == "accuracy" else f"{value:+.2f}"
    return text if float(text) else text[1:]


def with_interval(item: Effect, measure: str) -> str:
    """Write a change with its 95 % interval."""
    low, high = change(item.low, measure), change(item.high, measure)
    return f"{change(item.value, measure)} [{low}, {high}]"


def spread(values: Sequence[float], measure: str) -> str:
    """Write mean and range of random draws."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return "no draws"
    mean, low, high = sum(finite) / len(finite), min(finite), max(finite)
    return f"{change(mean, measure)} ({change(low, measure)} to {change(high, measure)})"


def p_value(p: float) -> str:
    """Write a p with two digits, which may be smaller than a float."""
    return f"p = {p:.2g}" if p > LEAST_P else f"p < {LEAST_P:g}"


def number(value: float) -> str:
    """Write a number with three significant digits."""
    return "n/a" if pd.isna(value) else f"{value:.3g}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Write a Markdown table; cells are taken as they are, so escape what comes from data."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]

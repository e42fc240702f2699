"""Log p of a million Fisher tests beside scipy's, and beside the sort that Benjamini-Hochberg needs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from scipy.stats import fisher_exact, hypergeom

from benchmarks.harness import Goal, measure, ratio_row

FEATURES = 1_048_576
LOOPED = 2_048  # tables of the row-by-row loop, whose time is scaled to all
UNITS = {"20 thousand": 20_000, "1 million": 1_000_000, "50 million": 50_000_000}


def tables(units: int) -> tuple[np.ndarray, ...]:
    """Return counts like a dictionary's: rates over four decades, half of them shifted on the target."""
    rng = np.random.default_rng(0)
    rate = 10 ** rng.uniform(-4, -0.5, FEATURES)
    shifted = np.minimum(rate * np.where(rng.random(FEATURES) < 0.5, 1, rng.lognormal(0, 0.5, FEATURES)), 0.9)
    target, baseline = units // 3, units - units // 3
    return rng.binomial(target, shifted), np.full(FEATURES, target), rng.binomial(baseline, rate), np.full(
        FEATURES, baseline
    )  # fmt: skip


def loop_seconds(counts: tuple[np.ndarray, ...]) -> float:
    """Return the time of scipy's fisher_exact, row by row, scaled to all features."""
    started = time.perf_counter()
    for a, n, c, m in zip(*(one[:: FEATURES // LOOPED].tolist() for one in counts)):
        fisher_exact([[a, n - a], [c, m - c]], alternative="greater")
    return (time.perf_counter() - started) * FEATURES / LOOPED


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure at three numbers of tokens."""
    return [row for name, units in UNITS.items() for row in compare(name, tables(units), rounds)]


def compare(name: str, counts: tuple[np.ndarray, ...], rounds: int) -> Iterator[dict[str, object]]:
    """Yield the rows of one number of tokens."""
    from vlmdiff.features.contrast import fisher_log_p

    a, n, c, m = counts
    log_p = fisher_log_p(*counts)
    times = measure(
        {
            "ours": lambda: fisher_log_p(*counts),
            "sort": lambda: np.argsort(log_p, kind="stable"),
        },
        rounds,
    )
    started = time.perf_counter()
    hypergeom.sf(a - 1, n + m, a + c, n)
    once = time.perf_counter() - started  # half a minute: more rounds would tell no more
    loop = np.array([loop_seconds(counts) for _ in range(rounds)])
    size = f"{FEATURES:,} features, {name} tokens"
    ours = times["ours"]
    ratios = (
        ("fisher_exact loop / ours", loop / ours, Goal(least=150)),
        ("hypergeom.sf, once / ours", once / ours, Goal()),
        ("ours / sort", ours / times["sort"], Goal(aim="<= 2")),
        ("seconds (not a ratio)", ours, Goal()),
        ("p that are 0", float(np.isinf(log_p).sum()), Goal(most=0)),
    )
    for ratio, values, goal in ratios:
        yield ratio_row("contrast", size, ratio, values, goal)

"""The scoreboard: every method, contrast, rule and seed in one table, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmdiff.interventions.selection_rules import RULES
from vlmdiff.runtime.files import replacing
from vlmdiff.scoreboard.scores import OWN
from vlmdiff.scoreboard.submitted import read_submission
from vlmdiff.summary.costs import read_benchmark
from vlmdiff.summary.markdown import change, escape, number, table
from vlmdiff.tables.causal import SELECTION
from vlmdiff.tables.features import RECURRENCE
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.scoreboard import (
    CONTROL_FINDS,
    LIMITS,
    METHOD_LIMITS,
    METHOD_RANKING,
    METHOD_SCORES,
    SCOREBOARD,
)

KEY = ["method", "concept", "rule"]
SEED_COLUMNS = ("seed", *KEY, "contrast")
EFFECTS = ("ablated", "target_margin", "control_margin", "random_margin")
RECURRING = ("recurrence", "recurrence_control")


def effects(file: str | Path | None, data: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return by rule what ablating its strongest features does; nothing without a table.

    Args:
        file: SELECTION of one comparison, seed and concept.
        data: the test data of the concept, and the general ones.
    """
    if file is None:
        return {}
    rows = read_table(file, SELECTION)
    rows = rows[rows["group"] == "all"]
    of = {name: rows[rows["dataset"] == name] for name in data}
    found, drawn = {}, set(rows.loc[rows["rule"] == "random", "size"])
    for rule in rows["rule"].unique():
        first = [one[(one["rule"] == rule) & (one["draw"] == 0)] for one in of.values()]
        if rule == "random" or any(part.empty for part in first):
            continue
        # Of the sizes that random sets have, too, the largest.
        first = [part.assign(held=part["size"].isin(drawn)).sort_values(["held", "size"]) for part in first]
        target, control = (part.iloc[-1] for part in first)
        random = of[data[0]].query("rule == 'random' and size == @target['size']")["delta_margin"]
        values = (target["size"], target["delta_margin"], control["delta_margin"], random.mean())
        found[rule] = dict(zip(EFFECTS, values, strict=True))
    return found


def recurrence(file: str | Path | None, seed: int) -> dict[str, float]:
    """Return how often final features of a seed are final in others, and features beside them."""
    if file is None:
        return {}
    rows = read_table(file, RECURRENCE)
    shares = rows[rows["seed"] == seed].groupby("arm")["match_final"].mean()
    return dict(zip(RECURRING, (shares.get("final", np.nan), shares.get("control", np.nan)), strict=True))


def seconds(folder: str | Path, patterns: Iterable[str]) -> float:
    """Sum the CPU time of a method's jobs; NaN if nothing is kept of them.

    Args:
        folder: `benchmarks` of the experiment.
        patterns: names of benchmark files below it.
    """
    files = sorted({file for pattern in patterns for file in Path(folder).glob(pattern)})
    jobs = [read_benchmark(file, Path(folder)).iloc[0] for file in files]
    # Of a job that was over at once there is no CPU time.
    spent = [job["s"] if np.isnan(job["cpu_time"]) else job["cpu_time"] for job in jobs]
    return round(float(sum(spent)), 2) or np.nan


def method_rows(entry: Mapping[str, Any], folder: str | Path, data: Sequence[str]) -> pd.DataFrame:
    """Return SCOREBOARD of one method, concept and seed, control finds aside.

    Args:
        entry: method, concept, contrast, seed; paths of scores, selection and recurrence; benchmarks.
        folder: `benchmarks` of the experiment.
        data: the test data of the concept, and the general ones.
    """
    rows = read_table(entry["scores"], METHOD_SCORES).assign(
        **{name: entry[name] for name in ("method", "concept", "contrast")},
        seconds=seconds(folder, entry["benchmarks"]),
    )
    nothing = dict.fromkeys(EFFECTS, np.nan) | {"ablated": 0}
    done = effects(entry["selection"], data)
    for name in EFFECTS:
        rows[name] = [done.get(rule, nothing)[name] for rule in rows["rule"]]
    again = recurrence(entry["recurrence"], entry["seed"])
    for name in RECURRING:
        rows[name] = np.where(rows["rule"] == "full", again.get(name, np.nan), np.nan)
    return rows.astype({"ablated": "int64"})


def submission_rows(entry: Mapping[str, Any]) -> pd.DataFrame:
    """Return SCOREBOARD of a submission, control finds aside."""
    rows = read_table(entry["scores"], METHOD_SCORES).assign(
        method=entry["method"], concept=OWN, contrast=OWN
    )
    rows["seconds"] = np.nan if entry["seconds"] is None else float(entry["seconds"])
    return rows.assign(ablated=0, **dict.fromkeys((*EFFECTS[1:], *RECURRING), np.nan))


def control_rows(entry: Mapping[str, Any], layers: Sequence[int]) -> pd.DataFrame:
    """Return CONTROL_FINDS of one method and control.

    Args:
        entry: method, concept, control, seed, and the path of a `ranking` or of a submitted `file`.
        layers: decoder blocks that are studied.
    """
    told = {name: entry[name] for name in ("method", "control", "seed")}
    if "file" in entry:
        found = read_submission(entry["file"], layers, may_be_empty=True)
        found["selected"] = found.get("selected", True)
        # Without any line nothing was found, in the first seed.
        counts = {0: 0} if found.empty else found.groupby("seed")["selected"].sum()
        own = {**told, "concept": OWN, "rule": OWN}
        return pd.DataFrame([own | {"seed": seed, "selected": int(count)} for seed, count in counts.items()])
    ranked = read_table(entry["ranking"], METHOD_RANKING)
    counts = ranked.groupby("rule")["selected"].sum().reindex(RULES, fill_value=0)
    return pd.DataFrame(
        [
            told | {"concept": entry["concept"], "rule": rule, "selected": int(count)}
            for rule, count in counts.items()
        ]
    )


def summarise_scoreboard(
    methods: Sequence[Mapping[str, Any]],
    submissions: Sequence[Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]],
    outputs: tuple[str | Path, str | Path, str | Path, str | Path],
    folder: str | Path,
    data: Sequence[str],
    layers: Sequence[int],
    experiment: str,
) -> None:
    """Write the scoreboard (contracts SCOREBOARD, LIMITS and CONTROL_FINDS) and its page.

    Args:
        methods: see `method_rows`.
        submissions: method, seconds and the path of scores.
        controls: see `control_rows`.
        outputs: paths of these tables and the page.
        folder: `benchmarks` of the experiment.
        data: the test data of the concept, and the general ones.
        layers: decoder blocks that are studied.
        experiment: its name.
    """
    found = [control_rows(entry, layers) for entry in controls]
    finds = pd.concat(found, ignore_index=True) if found else CONTROL_FINDS.empty_table().to_pandas()
    rows = [method_rows(entry, folder, data) for entry in methods]
    board = pd.concat([*rows, *(submission_rows(entry) for entry in submissions)], ignore_index=True)
    most = finds.groupby(KEY)["selected"].max().astype(float).rename("control_finds")
    board = board.merge(most, how="left", left_on=KEY, right_index=True)
    named = (
        read_table(entry["limits"], METHOD_LIMITS).assign(method=entry["method"], concept=entry["concept"])
        for entry in methods
    )
    limits = pd.concat(named, ignore_index=True)
    for frame, contract, output in zip((board, limits, finds), (SCOREBOARD, LIMITS, CONTROL_FINDS), outputs):
        write_table(frame, contract, output)
    with replacing(outputs[3]) as temporary:
        temporary.write_text("\n".join(page(board, limits, experiment)) + "\n", encoding="utf-8")


def averages(board: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds, the best average precision (any label) first.

    Args:
        board: SCOREBOARD.
    """
    values = [name for name in board.columns if name not in SEED_COLUMNS]
    # Where it is not told what is selected there is nothing to average.
    told = board.assign(selected=board["selected"].where(board["selected"] >= 0))
    grouped = told.groupby([*KEY, "contrast"], sort=False)
    means = grouped[values].mean().join(grouped.size().rename("seeds")).reset_index()
    return means.sort_values(["average_precision_any", *KEY], ascending=[False, True, True, True])


HEADER = (
    "method", "concept", "rule", "seeds", "selected", "precision", "recall", "F1", "average precision",
    "most in a control", "margin", "random", "recurs", "seconds",
)  # fmt: skip


def both(row: pd.Series, name: str) -> str:
    """Write a value by the best label, then by any label."""
    return f"{number(row[name])} / {number(row[f'{name}_any'])}"


def page_line(row: pd.Series) -> list[object]:
    """Return one line of the page."""
    margins = [change(row[name], "margin") for name in ("target_margin", "random_margin")]
    cells = [escape(row["method"]), escape(row["concept"]), escape(row["rule"]), row["seeds"]]
    cells += [number(row["selected"]), *(both(row, name) for name in ("precision", "recall", "f1"))]
    cells += [both(row, "average_precision"), number(row["control_finds"]), *margins]
    return [*cells, number(row["recurrence"]), number(row["seconds"])]


LIMIT_HEADER = ("method", "concept", "rule", "smallest effect size", "selected", "precision", "recall", "F1")


def best_limits(limits: pd.DataFrame) -> pd.DataFrame:
    """Return for each method, concept and rule the means at the effect size of the highest F1.

    By the best label, of the means over seeds; of equal ones the smallest.

    Args:
        limits: LIMITS.
    """
    means = limits.drop(columns="seed").groupby([*KEY, "min_effect_size"]).mean().reset_index()
    means = means.dropna(subset="f1").sort_values("f1", ascending=False, kind="stable")
    return means.groupby(KEY).head(1).sort_values(["f1", *KEY], ascending=[False, True, True, True])


def limit_line(row: pd.Series) -> list[object]:
    """Return one line on the best limit."""
    cells = [*(escape(row[name]) for name in KEY), number(row["min_effect_size"]), number(row["selected"])]
    return [*cells, *(both(row, name) for name in ("precision", "recall", "f1"))]


def where_to_cut(limits: pd.DataFrame) -> list[str]:
    """Return the lines on other effect sizes; none if no contrast goes by them.

    Args:
        limits: LIMITS.
    """
    if limits.empty:
        return []
    shown = best_limits(limits[limits["rule"].isin(("contrast", "full"))])
    return [
        "",
        "## Other effect sizes",
        "",
        "The smallest effect size that gives the highest F1 (best label, mean of seeds), all else as it is.",
        "It is told after the fact: choose by it in one world, and report what it does in another.",
        "",
        *table(LIMIT_HEADER, (limit_line(row) for _, row in shown.iterrows())),
    ]


def page(board: pd.DataFrame, limits: pd.DataFrame, experiment: str) -> list[str]:
    """Return the lines of the scoreboard's page.

    Args:
        board: SCOREBOARD.
        limits: LIMITS.
        experiment: its name.
    """
    return [
        f"# Scoreboard of {escape(experiment)}",
        "",
        "Means over seeds, the best ranking first. Pairs are by the best label, then by any label.",
        "The margin is its change in logits on the concept's test data under the strongest features,",
        "then under matched random ones.",
        "What each column means: docs/understand/scoreboard.md.",
        "",
        *table(HEADER, (page_line(row) for _, row in averages(board).iterrows())),
        *where_to_cut(limits),
    ]

"""Rankings, how good they are against a known truth, and the table of all of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from feature_tables import effects, table, write, write_decisions
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdiff.interventions.selection_rules import RULES
from vlmdiff.scoreboard.board import SCOREBOARD, averages, best_limits, page, summarise_scoreboard
from vlmdiff.scoreboard.ranking import rank_findings
from vlmdiff.scoreboard.scores import EFFECT_SIZES, average_precision, quality, score_ranking
from vlmdiff.tables.causal import SELECTION
from vlmdiff.tables.features import RECURRENCE
from vlmdiff.tables.io import read_table
from vlmdiff.tables.scoreboard import CONTROL_FINDS, LIMITS, METHOD_LIMITS, METHOD_RANKING, METHOD_SCORES
from vlmdiff.tables.world import GROUND_TRUTH

EPS = 0.5


def by_hand(real: list[bool], score: list[float]) -> float:
    """Average precision by its definition: precision at each threshold, by what it adds to recall."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        given = [truth for truth, value in zip(real, score) if value >= threshold]
        recall = sum(given) / sum(real)
        area += (recall - before) * sum(given) / len(given)
        before = recall
    return area


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([-math.inf, 0.0, 1.0, 2.5, math.inf])), min_size=1))
def test_average_precision_is_its_definition(pairs):
    real, score = zip(*pairs)
    found = average_precision(np.array(real), np.array(score))
    assert math.isnan(found) if not any(real) else found == pytest.approx(by_hand(list(real), list(score)))


def test_average_precision_of_the_best_and_the_worst_ranking():
    real = np.array([True, True, False, False])
    assert average_precision(real, np.array([4.0, 3, 2, 1])) == 1
    assert average_precision(real, np.array([1.0, 2, 3, 4])) == pytest.approx((1 / 3 + 2 / 4) / 2)
    # Without a ranking: the share of what is real.
    assert average_precision(real, np.zeros(4)) == 0.5


@pytest.fixture
def decisions(tmp_path):
    """Features of layer 1: (energy, adapted, log p, effect size, selected, invariant).

    The adjusted p is e times the p; feature 2 fires on 9 of 100 samples, the others on 10.
    """
    rows = {
        0: (1.0, True, -9.0, 2.0, True, True),
        1: (1.0, True, -5.0, 3.0, True, False),
        2: (1.0, False, -7.0, 1.5, True, True),
        3: (0.2, True, -8.0, 0.1, True, None),
        4: (1.0, True, -1.0, 0.9, False, None),
    }
    place = {feature: {"layer": 1, "feature": feature} for feature in rows}
    adapted = [place[f] | {"visual_energy": row[0], "adapted": row[1]} for f, row in rows.items()]
    contrast = [
        place[f]
        | {"unit": unit, "log_p": row[2], "effect_size": row[3], "selected": row[4] and unit == "token"}
        | {"log_p_adjusted": row[2] + 1, "fires_target": 6, "fires_baseline": 3 if f == 2 else 4}
        | {"n_target": 40, "n_baseline": 60}
        for f, row in rows.items()
        for unit in ("token", "sample")
    ]
    lexical = [place[f] | {"invariant": row[5]} for f, row in rows.items() if row[5] is not None]
    names = ("adapted", "contrast", "lexical")
    return dict(zip(names, write_decisions(tmp_path, adapted, contrast, lexical)))


CERTAIN = {"min_frequency": 0.1, "fdr": 0.01}


def ranked(decisions, tmp_path, contrast, lexical=True) -> pd.DataFrame:
    certainty = None if contrast == "counts" else CERTAIN
    rank_findings(decisions, tmp_path / "ranking.parquet", "token", EPS, lexical, certainty)
    return read_table(tmp_path / "ranking.parquet", METHOD_RANKING)


@pytest.mark.parametrize(
    ("contrast", "order"), [("counts", [0, 3, 2, 1, 4]), ("text_matched", [1, 0, 2, 4, 3])]
)
def test_a_ranking_goes_by_what_its_contrast_goes_by(decisions, tmp_path, contrast, order):
    found = ranked(decisions, tmp_path, contrast)
    of = {rule: part["feature"].tolist() for rule, part in found.groupby("rule")}
    assert of["contrast"] == order
    assert of["contrast_visual"] == [one for one in order if one != 3]
    assert of["contrast_adapted"] == [one for one in order if one != 2]
    assert of["contrast_lexical"] == [one for one in order if one in (0, 2)]
    assert of["full"] == [0]
    assert not found.loc[found["feature"] == 4, "selected"].any()
    assert found.loc[found["feature"] < 4, "selected"].all()


def test_what_another_effect_size_could_select_keeps_all_else_that_is_asked(decisions, tmp_path):
    found = ranked(decisions, tmp_path, "text_matched")
    certain = found[found["rule"] == "contrast"].set_index("feature")["certain"].to_dict()
    # Adjusted p of 1 and 4 are e^-4 and 1; feature 2 fires too seldom.
    assert certain == {0: True, 1: False, 2: False, 3: True, 4: False}
    found = ranked(decisions, tmp_path, "counts")
    assert (found["certain"] == found["selected"]).all()


def test_without_the_lexical_filter_nothing_is_refused_for_not_being_tried(decisions, tmp_path):
    found = ranked(decisions, tmp_path, "text_matched", lexical=False)
    of = {rule: part["feature"].tolist() for rule, part in found.groupby("rule")}
    assert of["contrast_lexical"] == of["contrast_visual"] == [1, 0, 2, 4]
    assert of["full"] == of["contrast_adapted"] == [1, 0, 4, 3]


def truth(rows: dict[int, tuple[bool, bool]]) -> pd.DataFrame:
    """Features of layer 1: spatial by their best label, by any label."""
    return table(
        GROUND_TRUTH,
        [
            {"layer": 1, "feature": f, "spatial": best, "spatial_match": some}
            for f, (best, some) in rows.items()
        ],
    )


REAL = {
    0: (True, True),
    1: (False, True),
    2: (False, False),
    3: (False, False),
    4: (True, True),
    5: (True, True),
}


def test_quality_counts_what_is_selected_and_ranked():
    given = pd.DataFrame({"layer": 1, "feature": [1, 0, 2], "score": [3.0, 2.0, 1.0], "selected": [1, 1, 0]})
    row = quality(truth(REAL), given.astype({"selected": bool}))
    assert (row["ranked"], row["selected"]) == (3, 2)
    assert (row["precision"], row["recall"]) == (1 / 2, 1 / 3)
    assert row["f1"] == pytest.approx(2 / 5)
    assert (row["precision_any"], row["recall_any"]) == (1, 2 / 4)
    # Two of three real ones are not ranked: they come last, all at once, with precision 3 of 6.
    assert row["average_precision"] == pytest.approx(1 / 3 * 1 / 2 + 2 / 3 * 3 / 6)
    assert row["average_precision_any"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 4 / 6)


def test_what_is_not_told_to_be_selected_has_a_ranking_alone():
    row = quality(truth(REAL), pd.DataFrame({"layer": 1, "feature": [0], "score": [3.0]}))
    assert row["selected"] == -1
    assert all(
        math.isnan(row[f"{name}{end}"]) for name in ("precision", "recall", "f1") for end in ("", "_any")
    )
    assert row["average_precision"] == pytest.approx(1 / 3 + 2 / 3 * 3 / 6)


def test_a_rule_that_refuses_everything_is_scored_too(tmp_path):
    ranking = write(tmp_path / "ranking.parquet", METHOD_RANKING, [])
    real = write(tmp_path / "truth.parquet", GROUND_TRUTH, truth(REAL).to_dict("records"))
    score_ranking(ranking, real, (tmp_path / "scores.csv", tmp_path / "limits.csv"), True, 2)
    scores = read_table(tmp_path / "scores.csv", METHOD_SCORES)
    limits = read_table(tmp_path / "limits.csv", METHOD_LIMITS)
    assert (limits["seed"] == 2).all() and (limits["selected"] == 0).all()
    assert len(limits) == len(RULES) * len(EFFECT_SIZES)
    assert scores["rule"].tolist() == list(RULES) and (scores["seed"] == 2).all()
    assert (scores["ranked"] == 0).all() and (scores["average_precision"] == 0.5).all()
    assert scores["precision"].isna().all() and (scores["recall"] == 0).all()


def test_other_effect_sizes_select_what_is_certain_and_large_enough(tmp_path):
    rows = [
        {
            "rule": "contrast",
            "layer": 1,
            "feature": f,
            "score": score,
            "selected": score > 1,
            "certain": f != 3,
        }
        for f, score in ((0, 1.0), (1, 0.7), (3, 1.5), (4, 0.2))
    ]
    ranking = write(tmp_path / "ranking.parquet", METHOD_RANKING, rows)
    real = write(tmp_path / "truth.parquet", GROUND_TRUTH, truth(REAL).to_dict("records"))
    outputs = (tmp_path / "scores.csv", tmp_path / "limits.csv")
    score_ranking(ranking, real, outputs, True, 0)
    limits = read_table(outputs[1], METHOD_LIMITS)
    found = limits[limits["rule"] == "contrast"].set_index("min_effect_size")
    assert found["selected"].to_dict() == {
        size: sum(bool(size <= score) for score in (1.0, 0.7, 0.2)) for size in EFFECT_SIZES
    }
    # Of features 0, 4 and 5, which are real by their best label.
    assert found.loc[[0.2, 0.7, 1.0], "precision"].tolist() == [2 / 3, 1 / 2, 1]
    assert found.loc[[0.2, 0.7, 1.0], "recall"].tolist() == [2 / 3, 1 / 3, 1 / 3]
    assert found.loc[[0.2, 0.7, 1.0], "precision_any"].tolist() == [1, 1, 1]
    score_ranking(ranking, real, outputs, False, 0)
    assert read_table(outputs[1], METHOD_LIMITS).empty


def test_the_best_limit_has_the_highest_mean_over_seeds(board):
    rows = [
        {"method": "m", "concept": "c", "rule": rule, "seed": seed, "min_effect_size": size, "f1": f1}
        | {"precision": f1 / 2, "selected": 4}
        for rule, seed, size, f1 in (
            ("full", 0, 0.5, 0.9), ("full", 1, 0.5, 0.1), ("full", 0, 0.8, 0.6), ("full", 1, 0.8, 0.6),
            ("full", 0, 0.9, 0.6), ("full", 1, 0.9, 0.6), ("contrast", 0, 0.1, 0.7),
            ("contrast_visual", 0, 0.3, 0.8), ("contrast", 0, 2.0, math.nan),
        )
    ]  # fmt: skip
    limits = table(LIMITS, rows)
    found = best_limits(limits).set_index("rule")["min_effect_size"]
    assert found.to_dict() == {"contrast_visual": 0.3, "contrast": 0.1, "full": 0.8}
    lines = "\n".join(page(read_table(board[0], SCOREBOARD), limits, "x"))
    _, _, below = lines.partition("## Other effect sizes")
    assert "| m | c | full | 0.8" in below and below.count("\n| m |") == 2
    assert "| contrast_visual |" not in below


def selection(rule: str, size: int, draw: int, at: float, dataset: str) -> dict:
    return {"rule": rule, "size": size, "draw": draw, "dataset": dataset} | effects(at=at)


@pytest.fixture
def board(tmp_path):
    """One method with two seeds, one control, a submission; effects of seed 0 alone."""
    scores = [{"rule": rule, "average_precision_any": 0.5 + i / 10} for i, rule in enumerate(RULES)]
    rows = [
        selection(rule, size, draw, at, dataset)
        for rule, size, draw, at in (
            ("full", 4, 0, -0.7), ("full", 3, 0, -0.2), ("full", 2, 0, -0.1),
            ("full", 3, 1, -0.9), ("random", 3, 0, -0.05),
            ("random", 3, 1, -0.03), ("random", 2, 1, -0.5), ("contrast", 3, 0, -0.3),
        )
        for dataset in ("spatial", "general")
    ]  # fmt: skip
    rows += [row | {"group": "left of", "delta_margin": -77.0} for row in rows]
    effects_file = write(tmp_path / "selection.csv", SELECTION, rows)
    again = [
        {"seed": seed, "arm": arm, "match_final": match}
        for seed, arm, match in (
            (0, "final", True), (0, "final", False), (0, "control", False),
            (1, "final", True), (1, "control", False),
        )
    ]  # fmt: skip
    recurrence = write(tmp_path / "recurrence.csv", RECURRENCE, again)
    measured = tmp_path / "benchmarks" / "train_dictionary" / "adapted" / "seed_0"
    measured.mkdir(parents=True)
    for layer in (0, 1):
        (measured / f"layer_{layer}.tsv").write_text(
            "s\tcpu_time\tmax_rss\n99\t10.5\t100\n" if layer else "s\tcpu_time\tmax_rss\n10.5\t-\t-\n"
        )
    methods = [
        {
            "method": "rotation", "concept": "space", "contrast": "counts", "seed": seed,
            "scores": write(tmp_path / f"{seed}.csv", METHOD_SCORES, [s | {"seed": seed} for s in scores]),
            "limits": write(
                tmp_path / f"limits_{seed}.csv", METHOD_LIMITS,
                [{"rule": "full", "seed": seed, "min_effect_size": 0.4, "f1": 0.5}] if seed else [],
            ),
            "selection": None if seed else effects_file, "recurrence": recurrence,
            "benchmarks": [
                f"train_dictionary/adapted/seed_{seed}/*.tsv", "train_dictionary/*/seed_0/layer_0.tsv"
            ],
        }
        for seed in (0, 1)
    ]  # fmt: skip
    own = write(
        tmp_path / "own.csv", METHOD_SCORES, [{"rule": "own", "selected": -1, "average_precision_any": 0.95}]
    )
    finds = [{"rule": "full", "layer": 0, "feature": f, "selected": f < 2} for f in range(3)]
    controls = [
        {
            "method": "rotation", "concept": "space", "control": name, "seed": 0,
            "ranking": write(tmp_path / f"{name}.parquet", METHOD_RANKING, rows),
        }
        for name, rows in (("shuffled", finds), ("text", finds[2:]))
    ]  # fmt: skip
    (tmp_path / "control.csv").write_text(
        "layer,feature,score,selected,seed\n0,1,2.0,1,0\n1,1,1.0,0,0\n0,2,1,1,1\n"
    )
    controls += [
        {"method": "mine", "concept": "own", "control": "text", "seed": 0, "file": tmp_path / "control.csv"}
    ]
    outputs = tuple(tmp_path / name for name in ("board.csv", "limits.csv", "finds.csv", "page.md"))
    summarise_scoreboard(
        methods, [{"method": "mine", "scores": own, "seconds": None}], controls, outputs,
        tmp_path / "benchmarks", ("spatial", "general"), [0, 1], "a_b",
    )  # fmt: skip
    return outputs


def test_the_board_has_everything_of_every_method(board):
    rows = read_table(board[0], SCOREBOARD).set_index(["method", "rule", "seed"])
    assert len(rows) == 2 * len(RULES) + 1
    full = rows.loc[("rotation", "full", 0)]
    # Of the sets of the first features the largest that has random ones, and those, over the whole data set.
    assert (full["ablated"], full["target_margin"], full["control_margin"]) == (3, -2.0, -2.0)
    assert full["random_margin"] == pytest.approx(-0.4)
    assert rows.loc[("rotation", "contrast", 0), "target_margin"] == pytest.approx(-3.0)
    assert rows.loc[("rotation", "contrast_visual", 0), "ablated"] == 0
    assert rows.loc[("rotation", "full", 1), "ablated"] == 0
    assert (full["recurrence"], full["recurrence_control"]) == (0.5, 0)
    assert rows.loc[("rotation", "full", 1), "recurrence"] == 1
    assert math.isnan(rows.loc[("rotation", "contrast", 0), "recurrence"])
    assert full["control_finds"] == 2
    assert rows.loc[("rotation", "contrast", 0), "control_finds"] == 0
    # Each job once, though two patterns name it.
    assert (full["seconds"], rows.loc[("rotation", "full", 1), "seconds"]) == (21, 10.5)
    assert rows.loc[("mine", "own", 0), "control_finds"] == 1


def test_finds_in_each_control_are_told(board):
    finds = read_table(board[2], CONTROL_FINDS)
    assert len(finds) == 2 * len(RULES) + 2
    assert finds[finds["rule"].isin(["full", "own"])].set_index(["method", "control"])[
        "selected"
    ].to_dict() == {
        ("rotation", "shuffled"): 2,
        ("rotation", "text"): 0,
        ("mine", "text"): 1,
    }


def test_the_page_ranks_means_over_seeds(board):
    means = averages(read_table(board[0], SCOREBOARD))
    assert means[["method", "rule"]].iloc[0].tolist() == ["mine", "own"]
    assert means["rule"].iloc[1:].tolist() == list(reversed(RULES))
    assert means["seeds"].tolist() == [1] + [2] * len(RULES)
    assert math.isnan(means["selected"].iloc[0])
    text = board[3].read_text()
    limits = read_table(board[1], LIMITS)
    assert limits[["method", "concept", "seed", "min_effect_size"]].values.tolist() == [
        ["rotation", "space", 1, 0.4]
    ]
    assert text.startswith("# Scoreboard of a\\_b\n")
    assert "| mine | own | own | 1 | n/a |" in text
    lines = page(read_table(board[0], SCOREBOARD), limits.iloc[:0], "x")
    assert sum(line.startswith("| rotation") for line in lines) == len(RULES)
    assert not any("effect size" in line for line in lines)

"""Criteria at their limits, and tables of comparisons by hand: every number differs from every other."""

from math import nan

import numpy as np
import pandas as pd
import pytest
import torch
from feature_tables import effects, table, write

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.summary import compared, confidence
from vlmdiff.summary.causal import Headline
from vlmdiff.summary.comparisons import ComparisonFiles, summarise_comparisons
from vlmdiff.summary.criteria import smallest_detectable
from vlmdiff.summary.findings import say_claims, say_features, say_final
from vlmdiff.summary.markdown import spread
from vlmdiff.summary.sections import Section
from vlmdiff.summary.write import Names
from vlmdiff.tables.causal import SELECTION, STEERING
from vlmdiff.tables.features import (
    COMPARISONS,
    CONTRAST_CHECK,
    FINAL_FEATURES,
    FUNNEL,
    RECURRENCE,
    THRESHOLDS,
)
from vlmdiff.tables.io import read_table
from vlmdiff.tables.world import RULE_QUALITY


def test_features_are_counted_beside_both_nulls():
    rows = [
        {
            "layer": layer,
            "rule": rule,
            "visual": visual,
            "adapted": adapted,
            "check_false_positive_rate": check,
        }
        | {"untuned_rate": untuned}
        for layer, rule, visual, adapted, check, untuned in (
            (-1, "percentile", 88, 25, 0.4, 0.3),
            (-1, "calibrated", 1_234, 77, 0.02, 0.11),
            (0, "calibrated", 9, 8, 0.7, 0.6),
        )
    ]
    text = say_features(table(THRESHOLDS, rows), "calibrated")
    assert text == (
        "Of 1,234 features that fire on images 77 are adapted by the calibrated rule (means over seeds); "
        "more text of the same kind would make adapted 2.0 % of them, image tokens before a model that was "
        "never tuned 11.0 % of them."
    )
    alone = table(THRESHOLDS, [{**rows[1], "check_false_positive_rate": nan, "untuned_rate": nan}])
    assert "no second null tells how many by chance" in say_features(alone, "calibrated")
    assert say_features(table(THRESHOLDS, [{**rows[1], "rule": "energy"}]), "energy").endswith("no rotation.")
    # Counts of several seeds are means.
    more = {"seed": 1, "visual": 1_238, "adapted": 81, "check_false_positive_rate": 0.03, "untuned_rate": 0.2}
    text = say_features(table(THRESHOLDS, [rows[1], rows[1] | more]), "calibrated")
    assert "Of 1,236 features that fire on images 79 are adapted" in text and "adapted 2.5 % of them" in text


def test_final_features_stand_beside_false_finds_and_truth():
    counts = lambda *rows: table(  # noqa: E731
        FUNNEL, [{"layer": at, "stage": stage, "features": n, "concept": c} for at, stage, n, c in rows]
    )
    funnel = counts(
        (0, "final", 3, "a"), (-1, "final", 11, "a"), (-1, "contrast", 40, "a"), (-1, "final", 5, "b")
    )
    untuned = counts((-1, "final", 2, "a"), (-1, "contrast", 9, "a"), (-1, "final", 30, "z"))
    truth = {"layer": -1, "definition": "best match", "rule": "full", "concept": "a", "precision": 0.25}
    quality = table(RULE_QUALITY, [truth, truth | {"rule": "live", "precision": 0.9}])
    assert say_final(funnel, untuned, quality) == (
        "Features that pass every filter: a 11 (never tuned: 2), b 5; by the scene graphs 25.0 % of those "
        "for a tell a place, relation or truth best."
    )
    assert say_final(funnel, untuned.iloc[:0], quality.iloc[:0]).endswith("a 11, b 5.")
    assert say_final(funnel.iloc[:0], untuned, quality) == ""


def test_claims_are_counted_over_chapters():
    text = say_claims([(5, 2, 0), (3, 0, 4), (0, 0, 0)])
    assert text.startswith("6 of 8 claims below met criteria")
    assert text.endswith("beforehand, 2 failed; 4 more cannot be tested: see the end.")
    assert "cannot be tested" not in say_claims([(1, 0, 0)])


def test_draws_are_told_by_mean_and_range():
    assert spread((-0.1, 0.2, -0.4, nan), "accuracy") == "-10.0 (-40.0 to +20.0)"


def claimed(describe, *arguments) -> tuple[str, list[str]]:
    """Return what a part of the section says, and what failed."""
    section = Section("x")
    describe(section, *arguments)
    return "\n".join(section.lines), section.failed


def recurrence_frame(final: list[bool], control: list[bool]) -> pd.DataFrame:
    """Two seeds; feature f of one is nearest to f of the other where it is found, else to none of them."""
    rows = []
    for seed in (0, 1):
        for arm, values, rate in (("final", final, 0.03), ("control", control, 0.02)):
            for i, value in enumerate(values):
                row = {"concept": "c", "arm": arm, "seed": seed, "other_seed": 1 - seed, "pair": i}
                row |= {"feature": i + 100 * (arm == "control"), "match": i if value else 500}
                row |= {"match_final": value, "visual_rate": rate, "cosine": 0.2 + 0.25 * (i % 4)}
                rows.append(row)
    return table(RECURRENCE, rows)


def test_recurrence_is_more_than_the_controls_matches():
    found = recurrence_frame([True, True, True, False] * 3, [True, False, False, False] * 3)
    text, failed = claimed(confidence.describe_recurrence, found)
    assert failed == []
    assert "75.0 % of final features and for 25.0 % of their controls" in text
    assert "median rates 0.03 and 0.02); +50.0 to +50.0 points between two seeds" in text
    assert ", 24 features of 2 seeds: more often than chance. It points" in text
    # Cosines are .2, .45, .7 and .95: half are the same direction.
    assert "for 50.0 % (controls 50.0 %; median cosines 0.575 and 0.575; no claim)." in text
    same = recurrence_frame([True, False] * 6, [True, False] * 6)
    assert len(claimed(confidence.describe_recurrence, same)[1]) == 1
    # One pair of features that meet is one chance in four, and no evidence, though it is all there is.
    few = recurrence_frame([True], [False])
    text, failed = claimed(confidence.describe_recurrence, few)
    assert "100.0 % of final features and for 0.0 % of their controls" in text
    assert len(failed) == 1 and "**no more often than chance**" in failed[0]
    alone = found[found["arm"] == "final"]
    section = Section("x")
    confidence.describe_recurrence(section, alone)
    assert section.claims == 0 and "no final feature has a control" in section.untestable[0]


@pytest.mark.parametrize(("unit", "kept", "other"), [("token", 95, 10), ("sample", 10, 95)])
def test_final_features_need_no_independent_units_of_their_own_kind(unit, kept, other):
    token = {"concept": "c", "unit": "token", "selected": 400, "final": 100, "final_clustered": 95}
    check = table(CONTRAST_CHECK, [token | {"unit": "sample", "final_clustered": 10}, token])

    def judged(**contrast):
        return claimed(confidence.describe_dependence, check, {"c": {"by": "counts", **contrast}})

    text, failed = judged(unit=unit, fdr=1 - kept / 100)
    assert failed == [] and f"{kept} of 100 final" in text and f"{other} of 100" not in text
    # One in a hundred fewer may be false.
    assert judged(unit=unit, fdr=1 - (kept + 1) / 100)[1] == [
        f"c, seed 0: {100 - kept}.0 % of final features need independent {unit}s."
    ]


@pytest.mark.parametrize(("precision", "failures"), [(0.5, 0), (0.49, 1)])
def test_the_truth_is_the_precision_of_the_best_match_over_all_layers(precision, failures):
    rows = []
    for layer, definition, value in (
        (0, "best match", 0.9),
        (-1, "best match", precision),
        (-1, "any match", 0.9),
    ):
        shown = {"live": 0.1, "full": value, "full_percentile": 0.3, "full_calibrated": 0.6}
        for rule, told in shown.items():
            row = {"concept": "c", "rule": rule, "layer": layer, "definition": definition}
            rows.append(row | {"precision": told, "recall": 1.0 - value, "selected": round(100 * told)})
    text, failed = claimed(confidence.describe_truth, table(RULE_QUALITY, rows))
    assert len(failed) == failures
    assert f"precision {100 * precision:.1f} %" in text and text.count("Ground truth") == 1
    assert "percentile rule: precision 30.0 % of 30; by the calibrated rule: precision 60.0 % of 60" in text


def rules_frame() -> pd.DataFrame:
    """Two concepts; `full` gives 20 of the one and 7 of the other, `contrast` gives none of the other."""
    rows = []
    for concept, rule, available, size, draw, at in (
        ("a", "full", 20, 5, 0, -0.9), ("a", "full", 20, 5, 1, -0.1), ("a", "full", 20, 5, 2, -0.3),
        ("a", "full", 20, 9, 0, -0.8), ("a", "full", 20, 9, 1, -0.5), ("a", "full", 20, 9, 2, -0.5),
        ("a", "contrast", 5, 5, 0, -0.6), ("a", "random", 0, 5, 0, -0.02), ("a", "random", 0, 5, 1, -0.04),
        ("b", "full", 7, 5, 0, -0.7), ("b", "full", 7, 5, 1, -0.2), ("b", "full", 7, 5, 2, -0.4),
        ("b", "full", 7, 7, 0, -0.35),
    ):  # fmt: skip
        head = {"comparison": "main", "concept": concept, "rule": rule, "available": available}
        rows.append(head | {"size": size, "draw": draw, **effects(at=at, dataset="space")})
    return table(SELECTION, rows)


def test_rules_are_compared_by_their_random_subsets_concept_by_concept_and_size_by_size():
    headline = Headline("a", "own_layer", 5, "margin", ("a", "b"), ("own_layer",), (5,), 1)
    names = Names(
        "e", "vlm", "adapted", "calibrated", headline, ("space", "other"), ("space", "other"),
        selection={"sizes": [5, 9], "rules": {"main": ["contrast", "full"], "scratch": ["full"]}},
    )  # fmt: skip
    text, _ = claimed(confidence.describe_rules, rules_frame(), names)
    lines = [line for line in text.splitlines() if line.startswith(("| main", "| scratch"))]
    deviation = 100 * np.std([0.1, 0.3], ddof=1)
    for line in (
        # All five that the contrast gives, once for each size that was asked for.
        "| main | a | contrast | 5 | 5 | 1 | -60.0 | -6.00 |",
        "| main | a | contrast | 5 | 5: all of them | 1 | -60.0 | -6.00 |",
        f"| main | a | full | 20 | 5 | 2 | -20.0 ± {deviation:.1f} | -2.00 ± {deviation / 10:.2f} |",
        "| main | a | full | 20 | 9 | 2 | -50.0 ± 0.0 | -5.00 ± 0.00 |",
        "| main | a | random, matched |  | 5 | 2 | -3.0 ± 1.4 | -0.30 ± 0.14 |",
        "| main | b | contrast | 0 | gives none | 0 | n/a | n/a |",
        f"| main | b | full | 7 | 5 | 2 | -30.0 ± {deviation:.1f} | -3.00 ± {deviation / 10:.2f} |",
        "| main | b | full | 7 | 7: all of them | 1 | -35.0 | -3.50 |",
        "| scratch | a | full | 0 | gives none | 0 | n/a | n/a |",
        "| scratch | b | full | 0 | gives none | 0 | n/a | n/a |",
    ):
        assert sum(found.startswith(line) for found in lines) == 1, line
    assert len(lines) == 10


def steered(gains: tuple[float, ...], **changes) -> pd.DataFrame:
    """Two arms at two strengths, the second arm the winner, beside the winners of pools; points gained."""
    rows = []
    for arm, strength, at, winner in (
        ("caa", 0.5, 0.5, False), ("caa", 2.0, 0.9, False), ("caa_feature", 0.5, 0.015, True),
        ("caa_feature", 1.0, 0.7, False), *(("random", 0.5, gain, True) for gain in gains),
    ):  # fmt: skip
        for dataset, share in (("space", 1.0), ("other", -2.0)):
            row = {"model": "m", "arm": arm, "name": "L1", "strength": strength, "winner": winner}
            row |= {"chosen": winner or at == 0.5, **effects(at=at * share, dataset=dataset)}
            rows.append(row | (changes if winner and arm != "random" and dataset == "space" else {}))
    return table(STEERING, rows)


def test_steering_helps_beyond_pools_that_chose_alike():
    """The winner gains 1.5 points, ends 0.5 and 3.5; the control loses twice as much."""
    weak = (-0.02, 0.0149, *[0.001] * 18)
    text, failed = claimed(confidence.describe_steering, steered(weak), ("space", "other"))
    assert failed == [] and "(caa + feature at L1, strength 0.5): +1.5 [+0.5, +3.5] points on space" in text
    assert "(n = 100)" in text and "-3.0 on other. The best of 2 random directions" in text
    assert "+0.1 (-2.0 to +1.5) in 20 pools; p = 0.048: it helps." in text
    # One pool that gains as much: 2 of 21.
    text, failed = claimed(confidence.describe_steering, steered((0.015, *weak[1:])), ("space", "other"))
    assert len(failed) == 1 and "p = 0.095: **no more than random directions**" in failed[0]
    # 18 pools cannot reach one in twenty, 19 can.
    assert (
        "p = 0.053: **no more"
        in claimed(confidence.describe_steering, steered(weak[:18]), ("space", "other"))[0]
    )
    assert (
        "p = 0.05: it helps"
        in claimed(confidence.describe_steering, steered(weak[:19]), ("space", "other"))[0]
    )
    # The interval from -1.0 to 3.0 has a standard error of 4 / 3.92; 2.80 of these are 2.9 points.
    touching = steered(weak, delta_low=-0.01, delta_high=0.03)
    text, failed = claimed(confidence.describe_steering, touching, ("space", "other"))
    assert "p = 0.048: **no gain** (a gain of 2.9 points would be found with 80 % power)" in failed[0]
    zero = steered(weak, delta_low=0.0, delta_high=0.0)
    assert (
        "**no gain** (no answer changed)"
        in claimed(confidence.describe_steering, zero, ("space", "other"))[0]
    )
    nothing = steered(weak).iloc[:0]
    assert claimed(confidence.describe_steering, nothing, ("space", "other")) == ("", [])


def test_the_smallest_detectable_effect_is_2_8_standard_errors():
    assert smallest_detectable(-0.1, 0.1) == pytest.approx(2.8016 * 0.2 / (2 * 1.95996), rel=1e-4)


@pytest.mark.parametrize(("final", "failures"), [(0, 0), (10, 0), (11, 1)])
def test_a_control_may_find_a_tenth(final, failures):
    rows = [
        {"comparison": "main", "about": "main", "final": 100, "contrast": 300},
        {"comparison": "shuffled", "about": "shuffled", "final": final, "contrast": 5},
    ]
    frame = table(COMPARISONS, rows)
    assert len(compared.describe_comparisons([frame], "controls").failed) == failures
    assert compared.describe_comparisons([frame], "controls").claims == 1
    assert compared.describe_comparisons([frame], "stages").claims == 0


def saved(folder, rows):
    dictionary = TopKDictionary(rows.shape[1], rows.shape[0], k=2)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.from_numpy(rows))
    save_dictionary(dictionary, folder, {})
    return folder


def comparison_files(folder, name, seed, base, final, dictionaries, shift=0):
    """Tables of one comparison; every count differs from every other and by `shift` from those of others."""
    folder = folder / f"{name}_{seed}"
    folder.mkdir()
    counted = {
        "all": 900,
        "visual": 500,
        "adapted": 77,
        "contrast": 88,
        "adapted_and_contrast": 44,
        "final": 22,
    }
    funnel = [
        {"layer": layer, "stage": stage, "features": count + shift + 1000 * (layer + 1)}
        | {"uncalibrated": count // 3 + shift + 2000 * (layer + 1)}
        for layer in (-1, 0)
        for stage, count in counted.items()
    ]
    thresholds = [
        {"rule": rule, "layer": layer, "adapted": count + shift + 7 * (layer + 1)}
        | {"null_false_positive_rate": rate + 0.03 * (layer + 1)}
        for rule, count, rate in (("percentile", 225, 0.2), ("calibrated", 33, 0.01), ("energy", 500, 0.9))
        for layer in (-1, 0)
    ]
    check = [
        {"unit": unit, "final_clustered": count + shift} for unit, count in (("token", 11), ("sample", 5))
    ]
    selection = [
        {"rule": rule, "size": size, "draw": draw, **effects(at=at * share, dataset=dataset), "group": group}
        for rule, size, draw, at in (
            ("contrast", 10, 0, -0.7), ("full", 4, 0, -0.2), ("full", 10, 0, -0.3), ("full", 10, 1, -0.6),
            ("random", 10, 0, -0.01), ("random", 10, 1, -0.03), ("random", 4, 0, -0.9),
        )
        for dataset, share in (("space", 1.0), ("other", 0.1))
        for group, share in (("left", 3 * share), ("all", share))
    ]  # fmt: skip
    keys = [{"layer": layer, "feature": feature} for layer, feature in final]
    tables = {
        "funnel": write(folder / "funnel.csv", FUNNEL, funnel),
        "thresholds": write(folder / "thresholds.csv", THRESHOLDS, thresholds),
        "check": write(folder / "check.csv", CONTRAST_CHECK, check),
        "selection": write(folder / "selection.csv", SELECTION, selection),
        "final": write(folder / "final.csv", FINAL_FEATURES, keys),
    }
    rule, unit = ("calibrated", "token") if name == "main" else ("energy", "sample")
    return ComparisonFiles(
        name, f"about {name}", rule, base, seed, unit, tables, dictionaries, untuned=name == "other"
    )


def test_the_table_of_comparisons_by_hand(tmp_path):
    rows = {at: np.random.default_rng(at).normal(size=(8, 12)).astype(np.float32) for at in (0, 3)}
    one = {at: saved(tmp_path / f"one_{at}", rows[at]) for at in rows}
    # The same directions under other numbers: feature f of main is feature 7 - f here.
    two = {at: saved(tmp_path / f"two_{at}", rows[at][::-1].copy()) for at in rows}
    found = [
        comparison_files(tmp_path, "main", 0, "base", [(0, 1), (0, 2), (3, 5)], one),
        comparison_files(tmp_path, "main", 1, "base", [(0, 7)], one, shift=100),
        comparison_files(tmp_path, "other", 0, "base", [(0, 1), (3, 1), (3, 2), (3, 4)], two, shift=200),
        comparison_files(tmp_path, "wide", 1, "base_wide", [(0, 0), (3, 0)], two, shift=300),
    ]
    summarise_comparisons(found, "c", ("space", "other"), tmp_path / "table.csv")
    table = read_table(tmp_path / "table.csv", COMPARISONS).set_index(["comparison", "seed"])
    main, other, wide = table.loc[("main", 0)], table.loc[("other", 0)], table.loc[("wide", 1)]
    counts = [
        "visual",
        "adapted_percentile",
        "adapted_calibrated",
        "adapted",
        "contrast",
        "final",
        "final_uncalibrated",
        "final_clustered",
    ]
    assert list(main[counts]) == [500, 225, 33, 77, 88, 22, 7, 11]
    assert list(other[counts]) == [700, 425, 233, 277, 288, 222, 207, 205]
    assert other["untuned"] and not main["untuned"] and not wide["untuned"]
    assert (main["null_rate"], other["null_rate"]) == (0.01, 0.9)
    # (0, 1) is common to 3 and 4 features. Of other's four (3, 2) alone points as main's final (3, 5) does.
    assert (main["jaccard"], other["jaccard"], main["matched"]) == (1.0, 1 / 6, 1.0)
    assert other["matched"] == 1 / 4
    # Another base: indices mean nothing. (0, 0) is main's (0, 7), final in seed 1.
    assert np.isnan(wide["jaccard"]) and wide["matched"] == 1 / 2
    effect_of = {"target_accuracy": -0.3, "target_low": -0.31, "target_high": -0.28, "target_margin": -3.0}
    effect_of |= {"target_margin_low": -3.1, "target_margin_high": -2.8, "control_accuracy": -0.03}
    effect_of |= {"control_low": -0.04, "control_high": -0.01, "control_margin": -0.3, "random_margin": -0.2}
    assert dict(main[list(effect_of)]) == pytest.approx(effect_of)
    assert main["size"] == 10

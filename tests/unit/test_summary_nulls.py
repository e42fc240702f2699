"""What the summary says of the nulls: nothing of the one that set the threshold, a test of the second one,
false finds of a model that was never tuned."""

from __future__ import annotations

import pytest
from feature_tables import table

from vlmdiff.summary.confidence import describe_second_null, describe_untuned, p_value
from vlmdiff.summary.sections import Section, describe_adapted, describe_concepts
from vlmdiff.tables.features import FUNNEL, THRESHOLDS

NAN = float("nan")
ROW = {"rule": "calibrated", "layer": -1, "tau": 0.953, "features": 400, "visual": 200, "adapted": 61}
ROW |= {"visual_uncalibrated": 30, "adapted_uncalibrated": 11, "null_adapted": 2}
ROW |= {"null_false_positive_rate": 2 / 170, "check_visual": 160.0, "check_vlm_adapted": 50.0}
ROW |= {"check_adapted": 5.0, "check_false_positive_rate": 5 / 160, "check_low": 0.013, "check_high": 0.071}
ROW |= {"check_p": 1e-9, "untuned_adapted": 46.0, "untuned_rate": 0.23, "adapted_also_untuned": 20.0}
ROW |= {"visual_textual": 120.0, "adapted_textual": 18.0}
WITHOUT = {name: NAN for name in ROW if name.startswith("check_")}


def said(describe, *frames) -> tuple[str, list[str], int]:
    section = Section("title")
    describe(section, *frames)
    return "\n".join(section.lines), section.failed, section.claims


def thresholds(*rows: dict):
    return table(THRESHOLDS, [ROW | row for row in rows])


def test_the_second_null_may_give_a_tenth_of_the_same_features():
    text, failed, claims = said(describe_second_null, thresholds({}))
    assert (failed, claims) == ([], 1)
    assert "5 of 160 calibrated features would be adapted (3.1 %, 95 % interval 1.3 % to 7.1 %)" in text
    assert "against 50 of them in the VLM (exact McNemar p = 1e-09): more than drift." in text
    _, failed, _ = said(describe_second_null, thresholds({"check_adapted": 6.0}))
    assert failed == ["Second null, seed 0, calibrated rule: **not more than drift**."]
    # 61 adapted features are more than 50, but those that are not calibrated have no second null.
    assert len(said(describe_second_null, thresholds({"check_adapted": 5.5}))[1]) == 1


@pytest.mark.parametrize(("p", "failures"), [(0.05, 0), (0.051, 1)])
def test_the_second_null_must_be_exceeded_by_more_than_chance(p, failures):
    rows = thresholds({"check_p": p, "check_vlm_adapted": 4.0, "check_adapted": 0.0})
    assert len(said(describe_second_null, rows)[1]) == failures


def test_the_first_null_and_a_rule_without_rotation_claim_nothing():
    wrong = {"null_adapted": 60, "null_false_positive_rate": 0.9}
    assert said(describe_second_null, thresholds(wrong))[1] == []
    assert said(describe_second_null, thresholds({"rule": "energy", "check_p": 1.0}))[2] == 0
    assert said(describe_second_null, thresholds({"layer": 2, "check_p": 1.0}))[2] == 0
    section = describe_adapted(thresholds(wrong, wrong | {"rule": "percentile"}), "calibrated")
    assert (section.claims, section.failed) == (0, [])
    lines = [line for line in section.lines if line.startswith("| 0 | ")]
    assert "| 200 (30) | 61 (11) | 90.0 % by construction | 3.1 % | 23.0 % |" in lines[0]
    assert "| 90.0 % | 3.1 %" in lines[1]


def test_seeds_without_a_second_null_are_named_and_not_tested():
    rows = thresholds({}, {"seed": 1, **WITHOUT}, {"seed": 2, **WITHOUT})
    text, failed, claims = said(describe_second_null, rows)
    assert (failed, claims) == ([], 1)
    assert "**Second null**: seeds 1, 2 without one; whether it is more is not tested there." in text
    assert said(describe_second_null, thresholds(WITHOUT))[2] == 0


def test_layers_have_rates_of_their_own():
    layers = [
        {"layer": 0, "adapted": 20, "null_false_positive_rate": 0.03},
        {"layer": 0, "adapted": 30, "null_false_positive_rate": 0.01, "seed": 1, **WITHOUT},
        {"layer": 4, "adapted": 41, "null_false_positive_rate": 0.0},
        {"layer": 4, "adapted": 9, "null_false_positive_rate": 0.5, "rule": "percentile"},
    ]
    lines = describe_adapted(thresholds({}, *layers), "calibrated").lines
    assert "| 0 | 200 (30) | 25 (11) | 2.0 % | 3.1 % | 23.0 % |" in lines
    assert "| 4 | 200 (30) | 41 (11) | 0.0 % | 3.1 % | 23.0 % |" in lines


def funnels(final: int, main: int, concept: str = "spatial"):
    rows = [{"concept": concept, "layer": layer, "stage": "final"} for layer in (-1, 3)]
    rows += [{"concept": concept, "layer": -1, "stage": "adapted"}]
    return tuple(
        table(
            FUNNEL,
            [
                row
                | {"features": count // (1 if row["layer"] < 0 else 7) + 500 * (row["stage"] == "adapted")}
                for row in rows
            ],
        )
        for count in (main, final)
    )


def test_features_of_a_model_that_was_never_tuned_are_false_finds():
    text, failed, claims = said(describe_untuned, thresholds({}), *funnels(20, 200))
    assert "20 of 61 adapted features also rotate when nothing is tuned (32.8 %)" in text
    assert "of all 200 visual features 46 do (23.0 %)" in text
    assert "spatial, seed 0: 20 features pass every filter, all false finds, against 200 in the VLM:" in text
    assert (failed, claims) == ([], 1)
    text, failed, _ = said(describe_untuned, thresholds({}), *funnels(21, 200))
    assert failed == [
        "spatial, seed 0: 21 false finds where nothing was tuned, 200 in the VLM: **not next to nothing**."
    ]
    main, _ = funnels(0, 200)
    nothing = said(describe_untuned, thresholds({"untuned_adapted": NAN}), main, main.iloc[:0])
    assert nothing == ("", [], 0)


def test_the_funnel_says_what_is_not_calibrated():
    rows = [
        {"concept": "c", "layer": -1, "stage": stage, "features": left, "uncalibrated": pale}
        for stage, left, pale in (("all", 90, 40), ("adapted", 31, 0), ("final", 12, 3))
    ]
    section = describe_concepts(table(FUNNEL, rows))
    assert "| c | 0 | 90 (40) | 0 | 31 | 0 | 0 | 12 (3) |" in section.lines
    assert "Final features whose rotation has no reference: c, seed 0: 3 of 12 (25.0 %)." in section.lines
    assert section.claims == 1


def test_a_p_that_is_too_small_for_a_float_has_a_limit():
    assert (p_value(0.0312), p_value(0.0)) == ("p = 0.031", "p < 1e-300")

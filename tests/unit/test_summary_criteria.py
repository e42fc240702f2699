"""Criteria at their limits, and tables of comparisons by hand: every number differs from every other."""

from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pytest
import torch
from feature_tables import table, write

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.summary import confidence
from vlmdiff.summary.causal import Intervention, claim_sets, interventions
from vlmdiff.summary.comparisons import ComparisonFiles, summarise_comparisons
from vlmdiff.summary.criteria import Comparison, Effect, at_chance, compare, effect, smallest_detectable
from vlmdiff.summary.findings import say_ablation, say_claims, say_features, say_heads, strongest
from vlmdiff.summary.sections import Section
from vlmdiff.summary.text import spread
from vlmdiff.tables.causal import ABLATION, HEAD_ABLATION, HEAD_AGREEMENT, HEAD_SCORES, SELECTION, STEERING
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

GOOD = Comparison(Effect(-3.0, -3.5, -2.5), Effect(-0.1, -0.3, 0.1), (-0.1,) * 20, (-9.0,) * 20)


def test_p_counts_the_selected_one_and_draws_that_do_as_much():
    assert GOOD.p_random == pytest.approx(1 / 21)
    for draws, p in (
        ((-3.0, *[0.0] * 19), 2 / 21),
        ((-2.999, *[0.0] * 19), 1 / 21),
        ((3.5,) * 20, 1 / 21),
        ((nan, nan, -4.0, *[0.0] * 7), 2 / 9),
    ):
        assert replace(GOOD, random=draws).p_random == pytest.approx(p)


def test_each_part_of_the_criterion_at_its_limit():
    assert GOOD.failures() == []
    touching = replace(GOOD, target=Effect(-3.0, -6.0, 0.0))
    assert touching.failures() == ["target does not fall"]
    # 19 draws that do less can just reach the level of one in twenty, 18 cannot.
    assert replace(GOOD, random=(0.0,) * 19).failures() == []
    assert replace(GOOD, random=(0.0,) * 18).failures() == ["random draws do as much, p = 0.05"]
    third = Effect(-1.0, -1.2, -0.8)
    assert replace(GOOD, control=third).failures() == []
    for value in (-1.01, 1.01):
        more = Effect(value, value - 0.2, value + 0.2)
        assert replace(GOOD, control=more).failures() == ["control not spared"]
    overlapping = replace(GOOD, target=Effect(-3.0, -5.0, -1.0), control=Effect(-0.5, -2.0, 1.0))
    assert overlapping.failures() == ["intervals of target and control overlap"]
    assert at_chance(0.25, 0.3) and not at_chance(0.2, 0.3)


def effects(**values) -> dict:
    """A row with the columns of EFFECT: accuracy changes by `at`, margin ten times as much; ends differ."""
    at = values.pop("at")
    row = {"group": "all", "n": 100, "accuracy_clean": 0.9, "accuracy": 0.9 + at, "delta_accuracy": at}
    row |= {"delta_low": at - 0.01, "delta_high": at + 0.02, "delta_margin": 10 * at}
    return row | {"margin_low": 10 * at - 0.1, "margin_high": 10 * at + 0.2} | values


def test_effects_are_read_from_their_own_columns():
    row = pd.Series(effects(at=-0.3))
    assert vars(effect(row, "accuracy")) == pytest.approx({"value": -0.3, "low": -0.31, "high": -0.28})
    assert vars(effect(row, "margin")) == pytest.approx({"value": -3.0, "low": -3.1, "high": -2.8})


def test_an_intervention_stands_beside_draws_of_its_own_size():
    rows = []
    for arm, size, draw, at in (
        ("selected", 2, 0, -0.3),
        ("random", 2, 0, -0.01),
        ("random", 2, 1, -0.02),
        ("selected", 5, 0, -0.5),
        ("random", 5, 0, -0.05),
    ):
        for dataset, share in (("space", 1.0), ("other", 0.1)):
            head = {"arm": arm, "size": size, "draw": draw, "features": f"{arm}{size}"}
            rows.append({**head, **effects(at=at * share, dataset=dataset)})
    frame = pd.DataFrame(rows)
    two, five = interventions(frame, "features", ("space", "other"))
    assert (two.size, two.members, two.name, five.size) == (2, "selected2", "top 2", 5)
    assert two.accuracy.random == pytest.approx((-0.01, -0.02))
    assert two.accuracy.random_control == pytest.approx((-0.001, -0.002))
    assert two.margin.control.value == pytest.approx(-0.3)
    assert five.accuracy.random == pytest.approx((-0.05,))
    chosen = frame[(frame["size"] == 2) & (frame["arm"] == "selected")]
    for missing in ("space", "other"):
        part = chosen[chosen["dataset"] != missing]
        assert compare(part, frame.iloc[:0], "space", "other", "margin") is None


def test_the_clearest_effect_fails_least_then_lowers_the_margin_most():
    bad = replace(GOOD, control=Effect(-2.9, -3.0, -2.8))
    hurt = replace(GOOD, target=Effect(-9.0, -9.5, -8.5), control=Effect(-8.0, -8.2, -7.8))
    deeper = replace(GOOD, target=Effect(-4.0, -4.5, -3.5))
    found = {
        "accuracy alone": Intervention(2, "a", GOOD, bad),
        "both": Intervention(2, "b", GOOD, GOOD),
        "both, deeper": Intervention(2, "c", GOOD, deeper),
        "neither": Intervention(2, "d", bad, hurt),
    }
    assert strongest(found.items())[0] == "both, deeper"
    del found["both, deeper"], found["both"]
    assert strongest(found.items())[0] == "accuracy alone"
    # Two criteria fail in the margin alone, against one in accuracy.
    overlapping = replace(GOOD, control=Effect(-2.9, -3.0, -2.8), random=(-5.0,) * 20)
    assert len(bad.failures()) < len(overlapping.failures())
    found = {"margin": Intervention(2, "e", GOOD, overlapping), "accuracy": Intervention(2, "f", bad, GOOD)}
    assert strongest(found.items())[0] == "accuracy"
    assert strongest([]) is None


def test_a_set_is_claimed_by_accuracy_and_the_margin_is_told_beside_it():
    bad = replace(GOOD, control=Effect(-2.9, -3.0, -2.8))
    section = Section("Effects")
    claim_sets(section, [("top 2", Intervention(2, "a", GOOD, bad))], "space", "Sets:")
    assert section.failed == []
    claim_sets(section, [("top 3", Intervention(3, "b", bad, GOOD))], "space", "Sets:")
    assert len(section.failed) == 1
    assert section.failed[0].startswith("space, top 3: not specific (control not spared")
    assert section.failed[0].endswith("; specific by margin.")


def test_findings_are_those_of_the_rule_of_sets_and_of_whole_models():
    thresholds = pd.DataFrame({"rule": ["percentile", "calibrated"], "features": 99, "adapted": [25, 7]})
    thresholds["null_adapted"] = [24, 1]
    funnel = pd.DataFrame(
        [(0, "final", 3), (1, "final", 8), (-1, "final", 11), (-1, "contrast", 40)],
        columns=["layer", "stage", "features"],
    ).assign(concept="space")
    text = say_features(thresholds, funnel, "calibrated")
    assert "Of 99 features 7 are adapted by the calibrated rule (the null dictionary would give 1)." in text
    assert text.endswith("Features that pass every filter: space 11.")
    assert say_claims([("Heads", 5, 2)]) == "Claims that met their criterion: Heads 3 of 5."
    rows = [
        {"arm": arm, "size": size, "draw": draw, "features": f"L0F{size}", "scope": "all_layers", "seed": 0}
        | {"concept": "space", **effects(at=at * share, dataset=dataset)}
        for arm, size, draw, at in (
            ("selected", 1, 0, -0.9),
            ("selected", 3, 0, -0.4),
            ("random", 3, 0, -0.02),
        )
        for dataset, share in (("space", 1.0), ("other", 0.01))
    ]
    # A single feature is no set, however strong.
    assert "space, top 3, all layers, seed 0: accuracy changes by -40.0" in say_ablation(
        table(ABLATION, rows).assign(seed=0), ("space", "other")
    )
    heads = [
        {"name": name, "score": score}
        for name, score in (("L0H1", 0.1), ("L2H0", 0.5), ("L1H1", 0.3), ("L1H0", 0.2))
    ]
    agreed = [
        {"name": "pooled", "method": f"method_{kind}", "spearman": rho}
        for kind, rho in (("a", 0.81), ("b", 0.23))
    ]
    said = say_heads(
        table(HEAD_SCORES, heads),
        table(HEAD_AGREEMENT, agreed),
        table(HEAD_ABLATION, []).assign(seed=0),
        ("s", "o"),
    )
    assert (
        "names the heads L2H0, L1H1, L1H0 first; its Spearman correlation with exact patching is 0.81" in said
    )


def test_draws_are_told_by_mean_and_range():
    assert spread((-0.1, 0.2, -0.4, nan), "accuracy") == "-10.0 (-40.0 to +20.0)"


def claimed(describe, *arguments) -> tuple[str, list[str]]:
    """Return what a part of the section says, and what failed."""
    section = Section("x")
    describe(section, *arguments)
    return "\n".join(section.lines), section.failed


def seeds_frame(ends: tuple[float, float], control: float = 1.0) -> pd.DataFrame:
    """Two seeds whose margins end at `ends`; random arms and single features would say something else."""
    rows = []
    for seed, end in enumerate(ends):
        for arm, size, dataset, high in (
            ("selected", 4, "space", end),
            ("selected", 4, "other", control),
            ("random", 4, "space", 9.0),
            ("selected", 1, "space", 9.0),
        ):
            head = {"concept": "c", "scope": "all_layers", "arm": arm, "size": size, "draw": 0, "seed": seed}
            rows.append(head | effects(at=-0.1 - 0.2 * seed, dataset=dataset) | {"margin_high": high})
    return pd.DataFrame(rows)


def test_a_margin_falls_if_its_interval_does_in_every_seed():
    data = ("space", "other")
    text, failed = claimed(confidence.describe_seeds, seeds_frame((-0.1, -0.2)), data)
    assert failed == []
    assert f"| c, top 4, all layers | -20.0 ± {100 * np.std([0.1, 0.3], ddof=1):.1f} |" in text
    assert text.count("top ") == 1
    for ends in ((-0.1, 0.1), (0.1, 0.1), (0.0, -0.1)):
        assert len(claimed(confidence.describe_seeds, seeds_frame(ends), data)[1]) == 1
    one = seeds_frame((-0.1, -0.2)).query("seed == 0")
    assert "One seed of dictionaries" in claimed(confidence.describe_seeds, one, data)[0]


def recurrence_frame(final: list[bool], control: list[bool]) -> pd.DataFrame:
    rows = [
        {"concept": "c", "arm": arm, "match_final": value, "mutual": not value, "cosine": 0.2 + 0.25 * i}
        for arm, values in (("final", final), ("control", control))
        for i, value in enumerate(values)
    ]
    return table(RECURRENCE, rows)


def test_recurrence_is_more_than_the_controls_matches():
    text, failed = claimed(
        confidence.describe_recurrence, recurrence_frame([True, True, True, False], [True] + [False] * 3)
    )
    assert failed == []
    # Cosines are .2, .45, .7 and .95: half are the same direction.
    assert "75.0 % of final features (other live features: 25.0 %)" in text
    assert "for 50.0 % (others 50.0 %; median cosine 0.575)" in text
    assert (
        len(claimed(confidence.describe_recurrence, recurrence_frame([True, False], [True, False]))[1]) == 1
    )
    # A quarter of the final ones is more than none, and no more than a quarter; half have the same direction.
    few = [True] + [False] * 3
    assert claimed(confidence.describe_recurrence, recurrence_frame(few, [False] * 4))[1] == []
    assert len(claimed(confidence.describe_recurrence, recurrence_frame(few, few))[1]) == 1


def test_the_second_null_may_give_a_tenth():
    row = {"rule": "calibrated", "visual": 200, "adapted": 50, "null_adapted": 2, "check_adapted": 5.0}
    assert claimed(confidence.describe_second_null, table(THRESHOLDS, [row]))[1] == []
    failed = claimed(confidence.describe_second_null, table(THRESHOLDS, [row | {"check_adapted": 6.0}]))[1]
    assert failed == ["Second null, seed 0, calibrated rule: **not separated**."]
    # The first null set the threshold: it claims nothing.
    assert claimed(confidence.describe_second_null, table(THRESHOLDS, [row | {"null_adapted": 40}]))[1] == []


def test_nineteen_in_twenty_final_features_need_no_independent_tokens():
    token = {"concept": "c", "unit": "token", "selected": 400, "final": 100, "final_clustered": 95}
    sample = token | {"unit": "sample", "final_clustered": 10}
    assert claimed(confidence.describe_dependence, table(CONTRAST_CHECK, [sample, token]))[1] == []
    failed = claimed(
        confidence.describe_dependence, table(CONTRAST_CHECK, [token | {"final_clustered": 94}])
    )[1]
    assert failed == ["c, seed 0: 6.0 % of final features need independent tokens."]


@pytest.mark.parametrize(("precision", "failures"), [(0.5, 0), (0.49, 1)])
def test_the_truth_is_the_precision_of_the_best_match_over_all_layers(precision, failures):
    rows = []
    for layer, definition, value in (
        (0, "best match", 0.9),
        (-1, "best match", precision),
        (-1, "any match", 0.9),
    ):
        for rule in ("live", "full"):
            row = {"concept": "c", "rule": rule, "layer": layer, "definition": definition}
            rows.append(row | {"precision": value if rule == "full" else 0.1, "recall": 1.0 - value})
    text, failed = claimed(confidence.describe_truth, table(RULE_QUALITY, rows))
    assert len(failed) == failures
    assert f"precision {100 * precision:.1f} %" in text and text.count("Ground truth") == 1


def test_rules_are_compared_by_their_random_subsets():
    rows = [
        {"comparison": "main", "rule": rule, "size": 5, "draw": draw, **effects(at=at, dataset="space")}
        for rule, draw, at in (("full", 0, -0.9), ("full", 1, -0.1), ("full", 2, -0.3), ("random", 0, -0.02))
    ]
    text, _ = claimed(confidence.describe_rules, table(SELECTION, rows), ("space", "other"))
    assert "| full | 5 | -20.0 | -2.00 |" in text and "| random | 5 | -2.0 | -0.20 |" in text


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
    assert len(confidence.describe_comparisons([frame], "controls").failed) == failures
    assert confidence.describe_comparisons([frame], "controls").claims == 1
    assert confidence.describe_comparisons([frame], "stages").claims == 0


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
        for layer in (-1, 0)
        for stage, count in counted.items()
    ]
    thresholds = [
        {"rule": rule, "adapted": count + shift, "null_false_positive_rate": rate}
        for rule, count, rate in (("percentile", 225, 0.2), ("calibrated", 33, 0.01), ("energy", 500, 0.9))
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
    return ComparisonFiles(name, f"about {name}", rule, base, seed, unit, tables, dictionaries)


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
        "final_clustered",
    ]
    assert list(main[counts]) == [500, 225, 33, 77, 88, 22, 11]
    assert list(other[counts]) == [700, 425, 233, 277, 288, 222, 205]
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

"""Claims about ablations at their limits: every number differs from every other."""

from dataclasses import replace
from itertools import product
from math import hypot, nan

import numpy as np
import pandas as pd
import pytest
from feature_tables import effects, table
from scipy import stats
from statsmodels.stats.multitest import multipletests

from vlmdiff.summary.causal import Headline, describe_ablation, interventions, set_results
from vlmdiff.summary.criteria import (
    Comparison,
    Effect,
    against_random,
    combined,
    corrected,
    effect,
    over_seeds,
)
from vlmdiff.summary.findings import say_ablation, say_others
from vlmdiff.summary.heads import claim_sets
from vlmdiff.summary.sections import Section
from vlmdiff.tables.causal import ABLATION

GOOD = Comparison(Effect(-3.0, -3.5, -2.5), Effect(-0.1, -0.3, 0.1), (-0.1,) * 20, (-9.0,) * 20)
Z = stats.norm.ppf(0.975)


def around(value, error):
    """An effect with a standard error."""
    return Effect(value, value - Z * error, value + Z * error)


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
    few = replace(GOOD, random=(0.0,) * 18)
    assert few.failures() == ["random draws do as much, p = 0.05"] and not few.testable
    assert replace(GOOD, random=(0.0,) * 19).testable
    assert not replace(GOOD, random=(nan, *(0.0,) * 18)).testable


def test_the_control_is_spared_if_shown_to_change_by_less_than_a_third():
    """Two one-sided tests: a wide interval around 0 shows nothing, and a rise is no better than a fall."""
    target = around(-3.0, 0.3)
    for control, spared in (
        (around(-0.2, 0.2), True),
        (around(0.2, 0.2), True),
        (around(0.0, 0.8), False),
        (around(-0.9, 0.2), False),
        (around(0.9, 0.2), False),
    ):
        found = replace(GOOD, target=target, control=control)
        error = hypot(control.error, 0.1)
        expected = stats.norm.sf((1.0 - abs(control.value)) / error)
        assert found.p_spared == pytest.approx(expected, rel=1e-3)
        assert (found.failures() == []) == spared
        if not spared:
            assert found.failures()[0].startswith("control not shown to be spared, p = ")


def test_the_p_of_a_claim_is_that_of_its_weakest_part():
    found = Comparison(around(-1.0, 0.3), around(0.0, 0.1), (-0.5,) * 99, (0.0,) * 99)
    parts = 2 * stats.norm.cdf(-1 / 0.3), 0.01, stats.norm.sf((1 / 3) / hypot(0.1, 0.1))
    assert found.p == pytest.approx(max(parts), rel=1e-3)
    assert replace(found, target=around(1.0, 0.3)).p == 1.0
    assert around(1.0, 0.3).p_fall == 1.0
    # Each part can be the weakest.
    unsure = stats.norm.sf((1 / 3) / hypot(0.3, 0.1))
    assert replace(found, control=around(0.0, 0.3)).p == pytest.approx(unsure, rel=1e-3)
    assert replace(found, control=around(0.0, 0.01)).p == pytest.approx(0.01)
    assert replace(found, target=around(-1.0, 0.5), control=around(0.0, 0.0), random=(0.0,) * 999).p == (
        pytest.approx(2 * stats.norm.cdf(-2))
    )


def test_without_an_error_the_value_decides_and_what_is_unknown_shows_nothing():
    exact = Comparison(Effect(-3.0, -3.0, -3.0), Effect(0.9, 0.9, 0.9), (0.0,) * 20, (0.0,) * 20)
    assert (exact.target.p_fall, exact.p_spared) == (0.0, 0.0)
    assert replace(exact, control=Effect(1.1, 1.1, 1.1)).p_spared == 1.0
    assert replace(exact, control=Effect(nan, nan, nan)).p_spared == 1.0


def test_the_smallest_detectable_effect_has_a_power_of_four_in_five():
    unknown = around(0.0, 0.25)
    power = stats.norm.sf(Z - unknown.detectable / 0.25)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_seeds_and_samples_both_make_the_mean_uncertain():
    seeds = [around(value, 0.2) for value in (-1.0, -2.0, -4.5)]
    found = over_seeds(seeds)
    between, sampling = np.var([-1, -2, -4.5], ddof=1) / 3, 0.04
    freedom = (between + sampling) ** 2 / (between**2 / 2)
    reach = stats.t.ppf(0.975, freedom) * (between + sampling) ** 0.5
    assert found.value == pytest.approx(-2.5)
    assert (found.low, found.high) == pytest.approx((-2.5 - reach, -2.5 + reach))
    # Seeds that agree leave the samples, which all of them share: more seeds do not make them more.
    same, alone = over_seeds([around(-1.0, 0.2)] * 5), over_seeds([around(-1.0, 0.2)])
    # The interval of one seed is wide enough for its clusters, and is not widened again.
    assert (same.low, same.high) == pytest.approx((alone.low, alone.high))
    assert (alone.low, alone.high) == pytest.approx((-1.0 - Z * 0.2, -1.0 + Z * 0.2))
    assert over_seeds([around(0.0, 0.0)] * 3).high == 0.0


def test_intervals_over_seeds_cover_the_true_mean():
    """Effects of three seeds around -1 with a spread of 0.5, and noise that their samples share."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        shared = rng.normal(0, 0.3)
        values = -1 + 0.5 * rng.normal(size=3) + shared
        found = over_seeds([around(value, 0.3) for value in values])
        covered += found.low <= -1 <= found.high
    assert 0.93 < covered / 600 < 0.995


def test_draws_of_the_same_number_are_averaged_over_seeds():
    one = replace(GOOD, random=(-1.0, -2.0), random_control=(0.0, 1.0))
    two = replace(GOOD, random=(-3.0, -8.0), random_control=(1.0, 5.0))
    found = combined({0: one, 1: two})
    assert found.random == (-2.0, -5.0) and found.random_control == (0.5, 3.0)
    # Pools of a seed that hurts as much on average are counted, even if each seed has one that does not.
    assert found.p_random == pytest.approx((1 + 1) / 3)


def test_effects_are_read_from_their_own_columns():
    row = pd.Series(effects(at=-0.3))
    for measure, expected in (("accuracy", (-0.3, -0.31, -0.28)), ("margin", (-3.0, -3.1, -2.8))):
        found = effect(row, measure)
        assert (found.value, found.low, found.high) == pytest.approx(expected)


def arms(*rows, data=("space", "other"), **head) -> pd.DataFrame:
    """Rows (arm, size, draw, change of accuracy of the target); the control changes by a tenth of it."""
    return pd.DataFrame(
        [
            {"arm": arm, "size": size, "draw": draw, "features": f"{arm}{size}", "rate": 0.1, "energy": 1.0}
            | {"removed": 0.01, "lost": 3, "gained": 1, "mcnemar_p": 0.6, **head}
            | effects(at=at * share, dataset=dataset)
            for arm, size, draw, at in rows
            for dataset, share in zip(data, (1.0, 0.1))
        ]
    )


def test_an_intervention_stands_beside_draws_of_its_own_size():
    frame = arms(
        ("selected", 2, 0, -0.3),
        ("random", 2, 1, -0.02),
        ("random", 2, 0, -0.01),
        ("selected", 5, 0, -0.5),
        ("random", 5, 0, -0.05),
    )
    two, five = interventions(frame, "features", ("space", "other"))
    assert (two.size, two.members, two.name, five.size) == (2, "selected2", "top 2", 5)
    assert two.accuracy.random == pytest.approx((-0.01, -0.02))
    assert two.accuracy.random_control == pytest.approx((-0.001, -0.002))
    assert two.margin.control.value == pytest.approx(-0.3)
    assert five.accuracy.random == pytest.approx((-0.05,))
    chosen = frame[(frame["size"] == 2) & (frame["arm"] == "selected")]
    for missing in ("space", "other"):
        part = chosen[chosen["dataset"] != missing]
        assert against_random(part, frame.iloc[:0], "space", "other", "margin") is None


HEADLINE = Headline("c", "all_layers", 4, "margin", ("c", "b"), ("all_layers", "own_layer"), (2, 4), 2)
DATA = ("space", "other")


def ablation(falls: dict, random: float = -0.02, pools: int = 20, stronger: int = 0) -> pd.DataFrame:
    """ABLATION of all sets of HEADLINE: `falls` by (concept, scope, size, seed) replace a fall of 0.3.

    The first `stronger` of the pools do more than that.
    """
    frames = []
    for concept, scope, size, seed in product(("c", "b"), ("all_layers", "own_layer"), (2, 4), (0, 1)):
        fall = falls.get((concept, scope, size, seed), -0.3)
        if fall is None:
            continue
        drawn = [-0.9] * stronger + [random] * (pools - stronger)
        rows = [("selected", size, 0, fall), *(("random", size, *one) for one in enumerate(drawn))]
        frames.append(arms(*rows, concept=concept, scope=scope, seed=seed))
    return pd.concat(frames, ignore_index=True)


def test_the_headline_is_the_set_that_the_config_names_whatever_the_others_do():
    """A set that does more does not take its place."""
    weak = {("c", "all_layers", 4, seed): -0.001 for seed in (0, 1)}
    frame = ablation({**weak, ("c", "own_layer", 2, 0): -0.9})
    results = set_results(frame, HEADLINE, DATA)
    assert [(one.concept, one.scope, one.size) for one in results] == [
        ("c", "all_layers", 4), ("c", "all_layers", 2), ("c", "own_layer", 2), ("c", "own_layer", 4),
        ("b", "all_layers", 2), ("b", "all_layers", 4), ("b", "own_layer", 2), ("b", "own_layer", 4),
    ]  # fmt: skip
    said = say_ablation(frame, HEADLINE, DATA)
    assert said.startswith(
        "**Headline**: removing the 4 best features of c changes the mean logit margin on space"
    )
    assert "by -0.01 [" in said and "**no specific effect is shown**" in said
    good = say_ablation(ablation({}), HEADLINE, DATA)
    assert "by -3.00 [" in good and "changes the first by -0.20 (p = 0.048, the least that 20 " in good
    assert "pools can give); they hold 1.0 % of the" in good and "The model depends on them" in good
    one_stronger = say_ablation(ablation({}, **MANY), HEADLINE, DATA)
    assert "(p = 0.013); they hold" in one_stronger
    section = describe_ablation(frame, HEADLINE, DATA)
    assert section.failed[0].startswith("Headline: c, top 4, all layers is **not specific**")
    assert section.claims + len(section.untestable) == 8


# Pools of which one does more than the set: p = 2 / 160, times 7 above the level, which 1 / 160 is not.
MANY = {"pools": 159, "stronger": 1}


def test_all_but_the_headline_are_corrected_for_being_many():
    section = describe_ablation(ablation({}, **MANY), HEADLINE, DATA)
    assert len(section.failed) == 7 and section.untestable == [] and section.claims == 8
    assert all("not after correction for 7 sets, p = 0.09" in text for text in section.failed)
    assert describe_ablation(ablation({}, pools=159), HEADLINE, DATA).failed == []
    assert multipletests([2 / 160] * 7, method="holm")[1][0] == pytest.approx(7 * 2 / 160)
    alone = replace(HEADLINE, concepts=("c",), scopes=("all_layers",))
    assert describe_ablation(ablation({}), alone, DATA).failed == []


def test_sets_whose_pools_cannot_pass_the_correction_are_not_testable():
    """With 20 pools no p below 1 / 21 is possible: times 7 it is above the level whatever the sets do."""
    section = describe_ablation(ablation({}), HEADLINE, DATA)
    told = "20 random pools can reach no p of 0.05 after correction for 7 sets; 139 could."
    assert len(section.untestable) == 7 and all(text.endswith(told) for text in section.untestable)
    assert section.failed == [] and section.claims == 1
    assert describe_ablation(ablation({}, pools=138), HEADLINE, DATA).claims == 1
    assert describe_ablation(ablation({}, pools=139), HEADLINE, DATA).claims == 8
    assert len(describe_ablation(ablation({}, pools=139, stronger=1), HEADLINE, DATA).failed) == 7
    # Whatever they do: what would have been a success is treated like a failure.
    falls = {("b", "own_layer", 4, seed): 0.0 for seed in (0, 1)}
    assert describe_ablation(ablation(falls), HEADLINE, DATA).untestable == section.untestable
    failed = describe_ablation(ablation(falls, pools=139), HEADLINE, DATA).failed
    assert len(failed) == 1 and "target does not fall" in failed[0]


def test_other_concepts_stand_next_to_the_headline():
    falls = {("b", "all_layers", 4, seed): -0.4 for seed in (0, 1)}
    said = say_others(ablation(falls), HEADLINE, DATA)
    # Of concept b the set of the headline's scope and size, as one of seven.
    start = (
        "Removing the 4 best features of b changes them by -4.00 [-4.15, -3.85] and -0.40 [-0.55, -0.25], "
    )
    assert said.startswith(f"{start}random pools the first by -0.20 (p = 0.048 by itself): not testable (20")
    assert said.endswith("after correction for 7 sets; 139 could).")
    assert say_others(ablation({}, pools=159), HEADLINE, DATA).endswith("by itself): specific.")
    failed = say_others(ablation({}, **MANY), HEADLINE, DATA)
    assert failed.endswith("not specific (not after correction for 7 sets, p = 0.09).")
    assert say_others(ablation({}), replace(HEADLINE, concepts=("c",)), DATA) == ""
    missing = {("b", "all_layers", 4, seed): None for seed in (0, 1)}
    assert say_others(ablation(missing), HEADLINE, DATA) == ""


def test_correction_is_holms():
    """The least of three counts three times, the next twice, and none is below one before it."""
    assert corrected([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert corrected([]) == []


def lines_of(section: Section, start: str) -> list[list[str]]:
    """Cells of the lines of tables that begin with some text."""
    lines = [line for line in section.lines if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_sets_tells_both_measures_and_corrected_p():
    frame = ablation({}, **MANY)
    section = describe_ablation(frame, HEADLINE, DATA)
    first, *others = [cells for cells in lines_of(section, "") if "layer" in cells[0] and "top" in cells[0]]
    assert first[0] == "c, top 4, all layers (headline)" and len(others) == 7
    assert first[5:9] == ["0.013", "0.000", "0.013", "**yes**"]
    failed = "**no**: not after correction for 7 sets, p = 0.09"
    assert all(cells[5:9] == ["0.013", "0.000", "0.088", failed] for cells in others)
    few = lines_of(describe_ablation(ablation({}), HEADLINE, DATA), "b, top")
    assert all(cells[7:9] == ["0.333", "not testable: 20 pools"] for cells in few if "layer" in cells[0])
    # Means over seeds: target and control by the claimed measure, then by the other one.
    assert [first[place].split(" [")[0] for place in (1, 3, 9, 10)] == ["-3.00", "-0.30", "-30.0", "-3.0"]
    assert first[2] == "-3.00, -3.00" and first[4] == "-0.26 (-9.00 to -0.20)"
    # What is asked of one kind of question alone changes nothing.
    left = frame.assign(group="left", delta_margin=9.0, delta_accuracy=0.9)
    again = describe_ablation(pd.concat([left, frame]), HEADLINE, DATA)
    assert again.lines == section.lines and again.failed == section.failed


def test_a_set_that_was_not_made_is_corrected_for():
    """Three of seven further sets lack all features: the four others are still four of seven."""
    missing = {("b", scope, size, seed): None for scope, size in (("own_layer", 2), ("own_layer", 4), ("all_layers", 2)) for seed in (0, 1)}  # fmt: skip  # noqa: E501
    section = describe_ablation(ablation(missing, **MANY), HEADLINE, DATA)
    assert sum("not after correction for 7 sets, p = 0.09" in text for text in section.failed) == 4
    assert sum("too few features in seed 0, 1" in text for text in section.failed) == 3


def test_sets_hold_several_features_and_the_headline_is_told_once():
    found = replace(HEADLINE, sizes=(1, 2, 4)).sets()
    assert found[0] == ("c", "all_layers", 4) and len(found) == len(set(found)) == 8
    assert {size for _, _, size in found} == {2, 4}


def test_how_well_pools_match_is_told_of_the_target_and_the_scope_of_the_headline():
    frame = ablation({})
    drawn, control = frame["arm"] == "random", frame["dataset"] == "other"
    frame.loc[drawn, "rate"] = 0.2 + frame["draw"] / 100
    frame.loc[drawn, "energy"], frame.loc[drawn, "removed"] = 3.0, 0.02
    frame.loc[control | (frame["scope"] == "own_layer"), ["rate", "energy", "lost"]] = 77.0
    rows = lines_of(describe_ablation(frame, HEADLINE, DATA), "c, top 4 |")
    assert [cells[1] for cells in rows] == ["0", "1"]
    assert rows[0][2:] == [
        "0.1", "0.295 (0.2 to 0.39)", "1", "3 (3 to 3)", "0.01", "0.02 (0.02 to 0.02)", "3 / 1", "0.6",
    ]  # fmt: skip


def test_single_features_are_told_with_the_p_of_their_margin():
    """Of 20 pools the best features of three lower the margin more, none the accuracy."""
    rows = [("selected", 1, 0, -0.3), *(("random", 1, draw, -0.02) for draw in range(20))]
    singles = arms(*rows, concept="c", scope="all_layers", seed=0)
    singles.loc[(singles["arm"] == "random") & (singles["draw"] < 3), "delta_margin"] = -9.0
    section = describe_ablation(pd.concat([ablation({}), singles]), HEADLINE, DATA)
    assert lines_of(section, "selected") == [["selected1", "-30.0", "-3.0", "-3.00", "-0.30", "0.19"]]
    assert sum(line.startswith("Single features") for line in section.lines) == 1


def test_beside_a_verdict_of_none_stands_what_would_be_found():
    """One seed rises, the other falls: the effect that would have a power of four in five is told."""
    falls = {("c", "all_layers", 4, seed): at for seed, at in enumerate((0.05, -0.06))}
    whole = set_results(ablation(falls), HEADLINE, DATA)[0].over_seeds("margin")
    least = (Z + stats.norm.ppf(0.8)) * (whole.target.high - whole.target.low) / (2 * Z)
    text = "\n".join(describe_ablation(ablation(falls), HEADLINE, DATA).lines)
    assert f"; from +{least:.2f} on it would be found" in text
    assert "would be found" not in "\n".join(describe_ablation(ablation({}), HEADLINE, DATA).lines)


def test_a_seed_without_the_set_is_a_failure_not_a_missing_row():
    frame = ablation({("c", "all_layers", 4, 1): None})
    assert "**no specific effect is shown** (too few features in seed 1)" in say_ablation(
        frame, HEADLINE, DATA
    )
    section = describe_ablation(frame, HEADLINE, DATA)
    assert "too few features in seed 1" in section.failed[0]
    nothing = describe_ablation(table(ABLATION, []).assign(seed=0), HEADLINE, DATA)
    assert "too few features in seed 0, 1" in nothing.failed[0] and nothing.claims == 8


def test_too_few_pools_are_neither_success_nor_failure():
    frame = ablation({})
    section = describe_ablation(frame[frame["draw"] < 18], HEADLINE, DATA)
    assert section.claims == 0 and section.failed == [] and len(section.untestable) == 8
    assert say_ablation(frame[frame["draw"] < 18], HEADLINE, DATA).endswith("too few pools to tell.")
    # Other sets that cannot be tested make no correction harder.
    few = frame[(frame["draw"] < 18) | (frame["concept"] == "c")]
    section = describe_ablation(few, HEADLINE, DATA)
    assert sum("no p of 0.05; 19 could" in text for text in section.untestable) == 4
    assert sum("after correction for 3 sets; 59 could" in text for text in section.untestable) == 3


def test_heads_are_claimed_by_one_measure_and_the_other_is_told_beside_it():
    rows = [("random", 2, draw, -0.02) for draw in range(20)]
    found = interventions(arms(("top", 2, 0, -0.3), *rows), "features", DATA)
    section = Section("Effects")
    mixed = replace(found[0], accuracy=replace(found[0].accuracy, target=Effect(0.1, 0.0, 0.2)))
    claim_sets(section, [("H1, H2", mixed)], "Heads", "Sets:", "margin")
    assert "**no**: target does not fall | **yes** |" in "\n".join(section.lines)
    assert section.failed == [] and section.claims == 1
    few = interventions(arms(("top", 2, 0, -0.3), *rows[:3]), "features", DATA)
    claim_sets(section, [("H1, H2", few[0])], "Heads", "Sets:", "margin")
    assert section.claims == 1 and "3 random draws reach no p of 0.05" in section.untestable[0]
    assert "not testable: 3 random draws" in "\n".join(section.lines)

"""What the explorer says was asked of a feature is what the stages asked, to the last digit."""

import numpy as np
import pandas as pd
import pytest
from damage import tries
from explorer_files import CONCEPT, keep, told, write_experiment
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.config.analysis import LexicalConfig
from vlmdiff.config.concepts import CountsConcept, TextMatchedConcept
from vlmdiff.explorer.columns import ConceptTables, all_columns
from vlmdiff.explorer.pack import rounded
from vlmdiff.explorer.steps import funnel_steps, held_against, rotation_limits
from vlmdiff.features.adapted import select_adapted
from vlmdiff.features.contrast import Criteria, contrast_unit
from vlmdiff.features.label_contrast import LabelCriteria, decide
from vlmdiff.tables.features import ADAPTED, CONTRAST, FEATURE_DIFF, FINAL_FEATURES, LEXICAL
from vlmdiff.tables.io import read_table

COUNTS = {"target": {"dataset": "a"}, "baseline": {"dataset": "b"}}
LABEL = {"target": {"dataset": "a"}, "contrast": "text_matched"}


# As page/detail.js has it.
HOLDS = {"≤": np.less_equal, "≥": np.greater_equal, ">": np.greater}


def reached(one, values) -> np.ndarray:
    """Return what the page makes of a number and its limit: with rounded values, in 32 bits."""
    if one["limit"] is None:
        return np.zeros(len(values), dtype=bool)
    found = HOLDS[one["sign"]](rounded(np.asarray(values, float)), np.float32(one["limit"]))
    found[one["except"]] ^= True
    return found


def all_reached(limits, table) -> np.ndarray:
    """Return which rows reach all limits, as the page decides; `table` has a column for each."""
    held = [
        (held_against(key, table[key].to_numpy(float), limit), table[key]) for key, limit in limits.items()
    ]
    return np.logical_and.reduce([reached(one, values) for one, values in held])


def test_the_page_is_told_what_each_step_asks_for(tmp_path):
    (about,) = told(write_experiment(tmp_path).parent / "data" / "about.js")
    steps = about["concepts"][0]["steps"]
    asked = [[(one["key"], one["sign"], one["text"]) for one in step["by"]] for step in steps]
    assert asked == [
        # Of the rule of the config, of all layers.
        [("similarity", "≤", "0.9375"), ("visual_energy", ">", "0.5")],
        [("space.odds", "≥", "3"), ("space.difference", "≥", "0.005"), ("space.log_p", "≤", "−1.25")],
        [("space.pairs", "≥", "0.25")],
        [],
    ]
    assert {one["key"] for one in about["columns"]} >= {key for step in asked for key, _, _ in step}


@pytest.mark.parametrize(
    "limit, text", [(np.nan, "unknown"), (-np.inf, "−∞"), (-1.30103, "−1.301"), (1e-9, "1e−09")]
)
def test_limits_are_written_as_they_are(limit, text):
    told = held_against("space.log_p", np.array([-1.0, np.nan]), limit)
    assert told["text"] == text
    if not np.isfinite(limit):
        assert not reached(told, [-1.0, np.nan]).any()


def test_numbers_of_a_contrast_are_those_that_it_asks_for(tmp_path):
    """A label's contrast asks for an effect, and for a share of both sides together."""
    index = {"layer": [0, 0], "feature": [0, 1]}
    sides = {"fires_target": [3, 0], "n_target": [10, 10], "fires_baseline": [1, 0], "n_baseline": [10, 30]}
    adapted = keep(tmp_path / "adapted.parquet", ADAPTED, **index)
    effects = {"unit": ["sample"] * 2, "effect_size": [0.5, 1.0]}
    contrast = keep(tmp_path / "contrast.parquet", CONTRAST, **index, **effects, **sides)
    tried = {"layer": [0], "feature": [1], "samples": [5], "samples_fired": [4], "invariant": [False]}
    lexical = keep(tmp_path / "lexical.parquet", LEXICAL, **tried)
    final = keep(tmp_path / "final.csv", FINAL_FEATURES)
    limits = TextMatchedConcept(**LABEL).limits | LexicalConfig(variant="strict").limits
    own = {CONCEPT: ConceptTables("", "sample", contrast, lexical, final, limits)}
    columns = {column.key: values for column, values in all_columns(adapted, own, [], None, {})}
    assert columns[f"{CONCEPT}.effect"].tolist() == [0.5, 1.0]
    assert columns[f"{CONCEPT}.frequency"].tolist() == [0.2, 0.0]
    tried = columns[f"{CONCEPT}.samples"]
    assert np.isnan(tried.iloc[0]) and tried.iloc[1] == 0.8
    assert not {f"{CONCEPT}.difference", f"{CONCEPT}.pairs"} & set(columns)


firings = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 200)), min_size=1, max_size=20)


@tries(60)
@given(
    firings,
    st.sampled_from([0.02, 0.05, 1.0, 0.0]),
    st.sampled_from([1.5, 3.0]),
    st.sampled_from([0.0, 0.005]),
)
def test_counts_select_what_reaches_all_limits(fires, fdr, odds, difference):
    target, baseline = np.array(fires).T
    counts = pd.DataFrame(
        {"fires_target": target, "n_target": 50, "fires_baseline": baseline, "n_baseline": 200}
    )
    concept = CountsConcept(**COUNTS, fdr=fdr, min_odds_ratio=odds, min_frequency_difference=difference)
    with np.errstate(divide="ignore"):
        found = contrast_unit(counts, "token", 100, Criteria(odds, difference, fdr))
    columns = found.assign(
        odds=found["odds_ratio"],
        difference=found["freq_difference"],
        log_p=found["log_p_adjusted"] / np.log(10),
    )
    assert all_reached(concept.limits, columns).tolist() == found["selected"].tolist()


@tries(60)
@given(firings, st.sampled_from([0.02, 0.05, 1.0, 0.0]), st.sampled_from([0.0, 0.02, 0.04, 0.2]))
def test_labels_select_what_reaches_all_limits(fires, fdr, frequency):
    """A frequency may be exactly what is asked: 5 of 250 samples are two hundredths."""
    target, baseline = np.array(fires).T
    table = pd.DataFrame(
        {"fires_target": target, "n_target": 50, "fires_baseline": baseline, "n_baseline": 200}
    ).assign(effect_size=np.linspace(0.5, 1.5, len(fires)), log_p=-target.astype(float))
    concept = TextMatchedConcept(**LABEL, fdr=fdr, min_effect_size=0.8, min_frequency=frequency)
    with np.errstate(divide="ignore"):
        found = decide(table, 100, LabelCriteria(0.8, frequency, fdr))
    columns = found.assign(
        effect=found["effect_size"],
        frequency=(target + baseline) / 250,
        log_p=found["log_p_adjusted"] / np.log(10),
    )
    assert all_reached(concept.limits, columns).tolist() == found["selected"].tolist()


@pytest.mark.parametrize("rule", ["percentile", "calibrated", "energy"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_rule_selects_what_reaches_its_limits(tmp_path, rule, calibrated):
    """Near 1 rounded similarities lie on both sides of the threshold; a null without features sets none."""
    generator, size = np.random.default_rng(0), 2000
    diff = keep(
        tmp_path / "diff.parquet", FEATURE_DIFF,
        layer=np.arange(size) // 1000, feature=np.arange(size) % 1000,
        similarity=1 - generator.exponential(2e-5, size),
        null_similarity=1 - generator.exponential(1e-5, size),
        calibrated=np.full(size, calibrated), visual_energy=generator.integers(0, 5, size) / 4,
        relative_norm=np.full(size, np.nan), check_cos_decoder=np.full(size, np.nan),
        untuned_cos_decoder=np.full(size, np.nan),
    )  # fmt: skip
    outputs = [str(tmp_path / name) for name in ("adapted.parquet", "thresholds.csv", "sweep.csv")]
    select_adapted(diff, outputs, 0.25, 30.0, 0.05, rule, [0.25], [30.0])
    table, limits = read_table(outputs[0], ADAPTED), rotation_limits(outputs[1], rule)
    if not calibrated and rule == "calibrated":
        assert np.isnan(limits["similarity"]) and not table["adapted"].any()
    else:
        assert 0 < table["adapted"].sum() < size
        alone = rounded(table["similarity"].to_numpy()) <= rounded(np.array([limits["similarity"]]))[0]
        assert (alone != (table["similarity"] <= limits["similarity"])).any() or rule == "energy"
    assert all_reached(limits, table).tolist() == table["adapted"].tolist()


def test_a_step_tells_the_numbers_of_its_concept_alone():
    index = pd.MultiIndex.from_product([[0], range(3)], names=["layer", "feature"])
    flags = {
        key: pd.Series([True, False, True], index) for key in ("adapted", *(f"c.{name}" for name in FLAGS))
    }
    numbers = {
        key: pd.Series([1.0, 2.0, 3.0], index) for key in ("similarity", "c.odds", "c.log_p", "d.odds")
    }
    steps = funnel_steps("c", flags | numbers, {"similarity": 2.0, "c.odds": 2.0, "d.odds": 9.0})
    assert [[one["key"] for one in step["by"]] for step in steps] == [["similarity"], ["c.odds"], [], []]
    assert [step["left"] for step in steps] == [2, 2, 2, 2]


FLAGS = ("contrast", "invariant", "final")

"""The contrast of equal texts: what is selected, and what its table tells of every feature."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from vlmdiff.data.samples import Sample
from vlmdiff.features.contrast import adjust_log_p
from vlmdiff.features.label_contrast import LabelCriteria, Measured, decide, images_of, strongest_test
from vlmdiff.features.matched_tests import Keys, matched_tests

CRITERIA = LabelCriteria(min_effect_size=0.8, min_frequency=0.02, fdr=0.05)
TEXTS, COPIES = 40, 4
COUNT = TEXTS * COPIES
TRUE = np.arange(COUNT) % 2 == 0
LEFT = np.arange(COUNT) // COPIES % 2 == 0
NOISE = np.random.default_rng(0).random(COUNT) * 0.5


def records():
    return [
        {
            "sample_id": f"s{i}",
            "prompt": f"text {i // COPIES}",
            "answer": "true" if TRUE[i] else "false",
            "relation": "left" if LEFT[i] else "above",
        }
        for i in range(COUNT)
    ]


def contrasted(columns, criteria=CRITERIA, features=None, **keys):
    """Return the contrast of features that are given as columns of activations."""
    tests = matched_tests(records(), range(COUNT), Keys("answer", "prompt", **keys), criteria.fdr)
    table = strongest_test(Measured(csc_matrix(np.stack(columns, axis=1))), tests)
    return decide(table.assign(layer=0), features or len(columns), criteria).set_index("feature")


def test_a_feature_is_told_by_the_value_on_which_it_is_active_more():
    found = contrasted([TRUE + NOISE, ~TRUE + NOISE, NOISE])
    assert found["selected"].tolist() == [True, True, False]
    assert found["value"].tolist()[:2] == ["true", "false"]
    assert (found["effect_size"] >= 0).all() and (found["unit"] == "sample").all()


def test_without_an_image_samples_of_one_text_are_one(tmp_path):
    """They are all that is shown; a picture is known by itself, whatever the text."""
    told = {"folder": tmp_path, "chat": True, "answer": None, "choices": None, "group": "g"}
    samples = [
        Sample(sample_id=f"s{i}", image=None, prompt=prompt, **told)
        for i, prompt in enumerate(["a", "b", "a"])
    ]
    first, second, third = images_of(samples)
    assert first == third != second


def test_frequencies_and_odds_are_those_of_the_value_that_is_told():
    fires = np.random.default_rng(1).random(COUNT) < np.where(TRUE, 0.75, 0.25)
    one, other = contrasted([fires * 1.0]).loc[0], contrasted([fires[::-1] * 1.0]).loc[0]
    assert (one["value"], other["value"]) == ("true", "false")
    counts = ["fires_target", "n_target", "fires_baseline", "n_baseline"]
    assert one[counts].tolist() == [fires[TRUE].sum(), 80, fires[~TRUE].sum(), 80] == other[counts].tolist()
    assert (one["freq_target"], one["freq_baseline"]) == (fires[TRUE].mean(), fires[~TRUE].mean())
    assert one["freq_difference"] == pytest.approx(fires[TRUE].mean() - fires[~TRUE].mean())
    assert 1 < one["odds_ratio"] == pytest.approx(other["odds_ratio"])


def test_opposite_signs_are_found_apart_and_not_together():
    turning = (TRUE == LEFT) + NOISE
    together, apart = contrasted([turning]).loc[0], contrasted([turning], within="relation").loc[0]
    assert not together["selected"] and together["effect_size"] < 0.1
    assert apart["selected"] and apart["level"] in ("above", "left")
    assert apart["value"] == {"above": "false", "left": "true"}[apart["level"]]


def test_the_number_of_tests_of_a_feature_is_corrected_for():
    one_sided = np.where(LEFT, TRUE * 1.0 + NOISE, NOISE)
    apart = contrasted([one_sided], within="relation").loc[0]
    tests = matched_tests(records(), range(COUNT), Keys("answer", "prompt", "relation"), 0.05)
    values = Measured(csc_matrix(one_sided[:, None]))
    alone = [strongest_test(values, [test])["log_p"][0] for test in tests]
    assert apart["level"] == "left"
    assert apart["log_p"] == pytest.approx(min(alone) + np.log(2))
    assert apart["log_p_firings"] <= 0


def test_p_are_adjusted_by_all_features_of_all_layers():
    found = contrasted([TRUE + 4 * NOISE, NOISE], features=1000)
    expected = adjust_log_p(found["log_p"].to_numpy(), 1000)
    assert found["log_p_adjusted"].to_numpy() == pytest.approx(expected)
    assert (found["log_p_clustered"] == found["log_p"]).all()
    assert (found["selected_clustered"] == found["selected"]).all()


def test_each_limit_is_one():
    weak = 0.2 * TRUE + NOISE
    assert contrasted([weak]).loc[0, "log_p_adjusted"] < np.log(0.05)
    assert not contrasted([3 * (0.05 * TRUE + NOISE)])["selected"].any()
    effect = contrasted([weak]).loc[0, "effect_size"]
    for limit, passes in ((effect - 0.01, True), (effect + 0.01, False)):
        assert contrasted([weak], LabelCriteria(limit, 0.02, 0.05)).loc[0, "selected"] == passes
    rare = np.where(np.arange(COUNT) < 48, TRUE * 1.0, 0.0)
    for least, passes in ((0.15, True), (0.16, False)):
        assert contrasted([rare], LabelCriteria(0.1, least, 0.05)).loc[0, "selected"] == passes
    p = np.exp(contrasted([weak]).loc[0, "log_p_adjusted"])
    assert not contrasted([weak], LabelCriteria(0.0, 0.0, p / 2)).loc[0, "selected"]

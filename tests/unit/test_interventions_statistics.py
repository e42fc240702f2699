"""Bootstrap, effects, matched controls, arms: no model needed."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from vlmdiff.data.samples import Sample
from vlmdiff.interventions.ablation_arms import Arm, pool_arms, reported_sizes, selected_arms
from vlmdiff.interventions.answers import Answers
from vlmdiff.interventions.bootstrap import crossed, interval, resample_counts
from vlmdiff.interventions.effects import EffectTable, mcnemar_p
from vlmdiff.interventions.matching import MatchedFeatures, coordinates, pools
from vlmdiff.interventions.ranking import ranked
from vlmdiff.runtime.seeds import derive_seed


def alone(n):
    """Samples that depend on no other."""
    return [np.arange(n)]


@given(st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_resamples_have_the_size_of_the_sample(n, seed):
    counts = resample_counts(alone(n), 7, seed)
    assert counts.shape == (7, n)
    assert (counts.sum(axis=1) == n).all()
    assert (counts == resample_counts(alone(n), 7, seed)).all()


def test_interval_equals_scipy():
    values = np.random.default_rng(0).normal(size=(1, 80))
    low, high = interval(values, resample_counts(alone(80), 20_000, 1), 10**6)
    expected = stats.bootstrap(
        (values[0],), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx(tuple(expected), abs=0.01)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, n = -0.1, 150
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.7, 0.1], size=(600, n))
    low, high = interval(values, resample_counts(alone(n), 800, 3), n)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.91 < covered < 0.98


def test_no_change_has_an_interval_of_zero():
    low, high = interval(np.zeros((1, 30)), resample_counts(alone(30), 100, 0), 30)
    assert (low[0], high[0]) == (0.0, 0.0)


def test_one_cluster_tells_no_spread():
    low, high = interval(np.array([[1.0, 2.0, 6.0]]), np.ones((50, 3)), 1)
    assert (low[0], high[0]) == pytest.approx((3.0, 3.0))


def test_empty_resamples_are_left_out_and_others_are_means():
    """Of five clusters t is 2.776, z 1.960, and the variance is four fifths of what it should be."""
    counts = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    low, high = interval(np.array([[0.0, 8.0]]), counts, 5)
    factor = 2.776445 / 1.959964 * 1.25**0.5
    # Means 0 and 8: the percentiles at 2.5 and 97.5 lie 0.2 inside.
    assert (low[0], high[0]) == pytest.approx((4 - 3.8 * factor, 4 + 3.8 * factor), rel=1e-5)


def test_only_divisions_that_no_other_contains_are_drawn():
    texts, images, samples = list("aabbcc"), list("xyxyzz"), list("123456")
    labels = lambda *all_of: [list(own) for own in crossed([np.array(one) for one in all_of])]  # noqa: E731
    assert labels(texts, images) == [[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2]]
    # Nothing repeats: each sample alone, once. What repeats in one way alone is drawn by that way.
    assert labels(samples, samples) == [[0, 1, 2, 3, 4, 5]]
    assert labels(samples, images) == labels(images, samples) == [[0, 1, 0, 1, 2, 2]]
    # Every text has its own images: whole texts are drawn.
    assert labels(list("aabbcc"), list("uuvwxx")) == [[0, 0, 1, 1, 2, 2]]


def test_clusters_are_drawn_whole():
    counts = resample_counts([np.array([0, 0, 1, 2, 2])], 50, 0)
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 3] == counts[:, 4]).all()
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()
    texts, images = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    product_of = resample_counts([texts, images], 50, 0)
    assert all((product_of[:, 0] != product_of[:, other]).any() for other in (1, 2))
    # Counts of crossed clusters are products, so the table of them has rank one.
    assert (product_of[:, 0] * product_of[:, 3] == product_of[:, 1] * product_of[:, 2]).all()


@pytest.mark.parametrize(("crossing", "least", "most"), [(False, 0.91, 0.98), (True, 0.93, 1.0)])
def test_clustered_intervals_cover_where_others_fall_short(crossing, least, most):
    """Forty texts (and forty images) with effects of their own, 400 samples, a true mean of 0."""
    rng = np.random.default_rng(0)
    texts, images = rng.integers(0, 40, 400), rng.integers(0, 40, 400)
    effect = rng.normal(size=(400, 40))[:, texts]
    if crossing:
        effect = effect + rng.normal(size=(400, 40))[:, images]
    values = effect + rng.normal(size=(400, 400)) * 0.5
    divisions = crossed([texts, images if crossing else np.arange(400)])
    for drawn, covers in ((divisions, True), (alone(400), False)):
        low, high = interval(values, resample_counts(drawn, 400, 3), 40 if covers else 400)
        covered = ((low <= 0) & (high >= 0)).mean()
        assert (least < covered < most) if covers else covered < 0.75


def sample(i, group="g", prompt=None):
    return Sample(sample_id=str(i), prompt=prompt or f"question {i}", group=group)


def test_effects_by_group_equal_a_naive_computation():
    rng = np.random.default_rng(0)
    groups = np.array(["below", "above", "above", "below", "above"], dtype=object)
    clean, edited = Answers(rng.normal(size=5)), Answers(rng.normal(size=5))
    samples = [sample(i, group) for i, group in enumerate(groups)]
    rows = {row["group"]: row for row in EffectTable("d", samples, clean, 200, 0).rows(edited)}
    assert list(rows) == ["all", "above", "below"]
    for group, row in rows.items():
        mask = np.ones(5, bool) if group == "all" else groups == group
        before, after = (one.margin[mask] > 0 for one in (clean, edited))
        assert row["n"] == row["clusters"] == mask.sum()
        assert row["accuracy_clean"] == pytest.approx(before.mean())
        assert row["accuracy"] == pytest.approx(after.mean())
        assert row["delta_accuracy"] == pytest.approx(after.mean() - before.mean())
        assert (row["lost"], row["gained"]) == ((before & ~after).sum(), (after & ~before).sum())
        assert row["delta_margin"] == pytest.approx((edited.margin - clean.margin)[mask].mean())
        # Two and a half per cent of the resampled means lie below, as many above.
        counts = resample_counts(alone(int(mask.sum())), 200, derive_seed(0, "bootstrap", "d", group))
        for name, change in (
            ("delta", after * 1.0 - before),
            ("margin", (edited.margin - clean.margin)[mask]),
        ):
            means = np.sort([np.repeat(change, count.astype(int)).mean() for count in counts])
            n, mean = int(mask.sum()), change.mean()
            wider = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * (n / (n - 1)) ** 0.5
            expected = mean + wider * (np.quantile(means, [0.025, 0.975]) - mean)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(expected))


def test_repeated_texts_are_one_cluster():
    samples = [sample(i, prompt=f"text {i % 7}") for i in range(60)]
    change = np.array([float(i % 7) for i in range(60)])
    table = EffectTable("d", samples, Answers(np.ones(60)), 2000, 0)
    row = next(table.rows(Answers(1 + change)))
    assert row["clusters"] == 7
    apart = [sample(i) for i in range(60)]
    narrow = next(EffectTable("d", apart, Answers(np.ones(60)), 2000, 0).rows(Answers(1 + change)))
    # All samples of a text change alike: the 60 samples tell no more than 7 texts.
    wider = [stats.t.ppf(0.975, n - 1) * (n / (n - 1)) ** 0.5 for n in (7, 60)]
    width, expected = row["margin_high"] - row["margin_low"], (60 / 7) ** 0.5 * wider[0] / wider[1]
    assert width / (narrow["margin_high"] - narrow["margin_low"]) == pytest.approx(expected, rel=0.1)


def test_images_are_clusters_and_samples_without_one_stand_alone():
    """Twelve samples: four show one picture, four another, four none; texts repeat where said."""
    pictures = {0: "coco:7", 1: "coco:8"}
    shown = lambda i: {"image": f"{i}.png", "image_id": pictures[i % 3]} if i % 3 in pictures else {}  # noqa: E731
    for text, clusters in (
        (lambda i: f"text {i}", 6),
        # Four texts cross the pictures: the fewer of both are the units.
        (lambda i: f"text {i % 4}", 4),
    ):
        samples = [Sample(sample_id=str(i), prompt=text(i), group="g", **shown(i)) for i in range(12)]
        table = EffectTable("d", samples, Answers(np.ones(12)), 50, 0)
        assert next(table.rows(Answers(np.ones(12))))["clusters"] == clusters


@pytest.mark.parametrize(("lost", "gained"), [(9, 1), (1, 9), (5, 5), (3, 0)])
def test_mcnemar_is_the_exact_test(lost, gained):
    expected = mcnemar([[10, lost], [gained, 10]], exact=True).pvalue
    assert mcnemar_p(lost, gained) == pytest.approx(expected)
    assert mcnemar_p(0, 0) == 1.0


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    clean = Answers(rng.normal(scale=10, size=200))
    edited = Answers(clean.margin - 1 + rng.normal(scale=0.1, size=200))
    row = next(EffectTable("d", [sample(i) for i in range(200)], clean, 500, 0).rows(edited))
    assert -1.05 < row["margin_low"] < row["margin_high"] < -0.95


def activity(features_per_layer=200, layers=(0, 1)):
    """Rates and energies that do not follow one another; about half of the features are silent."""
    rng = np.random.default_rng(0)
    rows = [
        (layer, i, rate, rate * rng.uniform(0.1, 10))
        for layer in layers
        for i in range(features_per_layer)
        for rate in [rng.choice([0.0, rng.uniform()])]
    ]
    return pd.DataFrame(rows, columns=["layer", "feature", "rate", "energy"])


def naive_nearest(table, feature, avoided, count):
    """The nearest firing features of the layer, by logarithms in standard deviations of the layer."""
    own = table[table["layer"] == feature[0]].set_index("feature")
    places = []
    for name in ("rate", "energy"):
        least = own.loc[own[name] > 0, name].min()
        logs = np.log(own[name].replace(0.0, least / 2))
        places.append((logs - logs.mean()) / logs.std())
    distance = sum((place - place[feature[1]]) ** 2 for place in places)
    possible = [i for i in own.index[own["rate"] > 0] if (feature[0], i) not in avoided]
    return sorted(possible, key=lambda i: (distance[i], i))[:count]


def test_places_are_logarithms_in_deviations_of_the_layer():
    """A silent feature stands half of the least of its layer; where all are alike, all stand at 0."""
    table = pd.DataFrame(
        {
            "layer": [0, 0, 0, 1, 1, 1],
            "rate": [0.1, 0.4, 0.0, 0.02, 0.02, 0.02],
            "energy": [5.0, 5.0, 20.0, 1e-3, 1e-2, 1e-1],
        }
    )
    # Logarithms of base 2 of rates over 0.1: 0, 2, -1, so -1, 5, -4 thirds from their mean.
    rate = [*(np.array([-1, 5, -4]) / 21**0.5), 0.0, 0.0, 0.0]
    energy = [*(np.array([-1, -1, 2]) / 3**0.5), -1.0, 0.0, 1.0]
    np.testing.assert_allclose(coordinates(table), np.stack([rate, energy], axis=1), atol=1e-12)


def test_controls_match_layer_rate_and_energy_and_are_not_of_the_concept():
    table = activity()
    table.loc[(table.layer == 0) & (table.feature == 3), ["rate", "energy"]] = (0.5, 0.2)
    avoided = [(0, 3), (1, 4), *((0, i) for i in range(40, 60))]
    matched = MatchedFeatures(table.sample(frac=1, random_state=0), avoided, neighbours=5)
    drawn = {matched.draw([(0, 3)], np.random.default_rng(i))[0] for i in range(80)}
    assert drawn == {(0, i) for i in naive_nearest(table, (0, 3), avoided, 5)}


def test_sets_keep_the_composition_by_layer_and_have_no_doubles():
    matched = MatchedFeatures(activity(), [(0, 1), (0, 2), (1, 1)], neighbours=2)
    for seed in range(20):
        drawn = matched.draw([(0, 1), (0, 2), (1, 1)], np.random.default_rng(seed))
        assert [layer for layer, _ in drawn] == [0, 0, 1]
        assert len(set(drawn)) == 3


def test_draws_fill_up_when_controls_are_few():
    """Every control is taken in the end, each once, whatever the order in which features are served."""
    table = pd.DataFrame({"layer": 0, "feature": range(5), "rate": [0.1, 0.2, 0.3, 0.0, 0.4], "energy": 1.0})
    matched = MatchedFeatures(table, [(0, 0)])
    for seed in range(10):
        drawn = matched.draw([(0, 0), (0, 0), (0, 0)], np.random.default_rng(seed))
        assert sorted(drawn) == [(0, 1), (0, 2), (0, 4)]


def test_layers_without_controls_enough_keep_their_first_candidates(caplog):
    """Five firing features that are not of the concept: two for each of two candidates."""
    table = pd.DataFrame({"layer": 0, "feature": range(9), "rate": [0.1] * 8 + [0.0], "energy": 1.0})
    table = pd.concat([table, table.assign(layer=3)])
    of_concept = [(0, 0), (0, 1), (0, 2), (3, 5)]
    matched = MatchedFeatures(table, of_concept)
    with caplog.at_level(logging.WARNING):
        assert matched.testable([(0, 2), (3, 5), (0, 0), (0, 1)]) == [(0, 2), (3, 5), (0, 0)]
    assert "1 of 4 candidates are left out" in caplog.text
    assert matched.testable([(7, 1)]) == []
    # Four controls are just enough for two candidates.
    exact = MatchedFeatures(table, [*of_concept, (0, 3)])
    assert exact.testable([(0, 2), (0, 0), (0, 1)]) == [(0, 2), (0, 0)]


def test_strata_hold_a_candidate_and_its_own_nearest_controls():
    """Rates rise with the index, so nearness is nearness of indices; layer 1 has 37 controls for two."""
    table = pd.DataFrame(
        {"layer": np.repeat([0, 1], 40), "feature": np.tile(np.arange(40), 2), "energy": 1.0}
    )
    table["rate"] = np.exp(table["feature"] / 10)
    candidates = [(1, 10), (0, 3), (1, 30), (0, 20), (0, 39)]
    avoided = [*candidates, (1, 11)]
    strata = MatchedFeatures(table, avoided).strata(candidates, np.random.default_rng(0))
    assert [one[0] for one in strata] == candidates
    controls = [feature for one in strata for feature in one[1:]]
    assert len(set(controls)) == len(controls) and not set(controls) & set(avoided)
    # 37 controls for three, so twelve each; 37 for two, so eighteen each.
    assert [len(one) - 1 for one in strata] == [18, 12, 18, 12, 12]
    assert all(layer == one[0][0] for one in strata for layer, _ in one)
    for (layer, index), *found in strata:
        others = [i for own, i in candidates if own == layer and i != index]
        # The first two rounds are undisturbed: neighbours on both sides, other candidates being far.
        assert {i for _, i in found[:2]} <= set(range(index - 3, index + 4)), (layer, index, others)


def test_a_candidate_has_at_most_twenty_controls_and_none_is_always_served_first():
    table = pd.DataFrame({"layer": 0, "feature": range(60), "energy": 1.0})
    table["rate"] = np.exp(table["feature"] / 10)
    alone = MatchedFeatures(table, [(0, 30)]).strata([(0, 30)], np.random.default_rng(0))
    assert len(alone[0]) == 1 + 20
    assert {i for _, i in alone[0]} == set(range(20, 41))
    # Two candidates of the same rate want the same control: sometimes the one gets it, sometimes the other.
    table.loc[table["feature"] == 1, "rate"] = table.loc[0, "rate"]
    matched = MatchedFeatures(table, [(0, 0), (0, 1)], neighbours=1)
    candidates, drawn, dealt = [(0, 0), (0, 1)], set(), set()
    for seed in range(20):
        drawn.add(tuple(matched.draw(candidates, np.random.default_rng(seed))))
        dealt.add(tuple(one[1] for one in matched.strata(candidates, np.random.default_rng(seed))))
    assert drawn == dealt == {((0, 2), (0, 3)), ((0, 3), (0, 2))}


def test_a_set_ranks_by_what_its_own_shortlist_measured():
    """Feature 2 does most of all, but this set would not have measured it; names, places and ranks differ."""
    keys = pd.MultiIndex.from_product([[4], [0, 1, 2, 3]], names=["layer", "feature"])
    found = pd.DataFrame(
        {
            "target_estimate": [-1.0, -3.0, -0.6, 0.3],
            "control_estimate": [0.4, -0.5, -0.2, 0.0],
            "target_delta_accuracy": 0.0,
            "target_delta_margin": [-0.9, -0.4, -5.0, -6.0],
            "control_delta_accuracy": 0.0,
            "control_delta_margin": [0.3, -0.2, 0.0, 0.0],
        },
        index=keys,
    )
    own = ranked(found, [(4, 3), (4, 1), (4, 2), (4, 0)], 2)
    assert list(own["feature"]) == [0, 1, 2, 3]
    assert list(own["place"]) == [3, 1, 2, 0] and list(own["rank"]) == [0, 1, 2, 3]
    np.testing.assert_allclose(own["specificity"], [0.6, 0.2, np.nan, np.nan])
    assert list(own["target_delta_margin"].isna()) == [False, False, True, True]


def test_a_pool_takes_each_member_of_a_stratum_with_the_same_chance():
    strata = [[(0, 1), (0, 2), (0, 3), (0, 4)], [(1, 5), (1, 6)]]
    drawn = pools(strata, 4000, np.random.default_rng(0))
    for place, stratum in enumerate(strata):
        counts = pd.Series([one[place] for one in drawn]).value_counts()
        assert set(counts.index) == set(stratum)
        assert stats.chisquare(counts).pvalue > 0.001


def test_counting_pools_is_an_exact_test_however_few_controls_there_are():
    """Best five of thirty with two controls each, all effects of one kind: p <= 0.05 in 5 % of all cases."""
    rng, rejected, excluding = np.random.default_rng(0), 0, 0
    candidates = [(0, i) for i in range(30)]
    strata = [[(0, i), (0, 30 + 2 * i), (0, 31 + 2 * i)] for i in range(30)]
    best = lambda effect, features: np.sort([effect[i] for _, i in features])[-5:].sum()  # noqa: E731
    for _ in range(1500):
        effect = rng.exponential(size=90)
        own = best(effect, candidates)
        null = [best(effect, one) for one in pools(strata, 20, rng)]
        rejected += (1 + sum(one >= own for one in null)) / 21 <= 0.05
        null = [best(effect, [(0, i) for i in rng.choice(60, 30, replace=False) + 30]) for _ in range(20)]
        excluding += (1 + sum(one >= own for one in null)) / 21 <= 0.05
    assert stats.binomtest(rejected, 1500).proportion_ci().high < 0.08
    # Pools of random features alone, as one would draw them first, are not.
    assert excluding / 1500 > 0.12


def test_random_arms_are_the_best_of_each_pool():
    ranked = [[(0, 7), (1, 2), (0, 3), (2, 2)], [(1, 9), (0, 8), (2, 4), (0, 1)]]
    assert list(pool_arms(ranked, [3])) == [
        Arm("random", 1, 0, ((0, 7),)),
        Arm("random", 1, 1, ((1, 9),)),
        Arm("random", 3, 0, ((0, 7), (1, 2), (0, 3))),
        Arm("random", 3, 1, ((1, 9), (0, 8), (2, 4))),
    ]
    # A set of all that are ranked is a set too.
    assert reported_sizes([2, 3], 3) == [2, 3]


def test_plan_holds_singles_and_sets(caplog):
    ranked = [(0, 1), (0, 2), (1, 1), (1, 5)]
    with caplog.at_level(logging.WARNING):
        sizes = reported_sizes([3, 5, 1], len(ranked))
    assert sizes == [3]
    assert "[5]" in caplog.text
    selected = list(selected_arms(ranked, 2, sizes))
    assert [(arm.size, arm.draw, arm.features) for arm in selected] == [
        (1, 0, ((0, 1),)),
        (1, 1, ((0, 2),)),
        (3, 0, ((0, 1), (0, 2), (1, 1))),
    ]

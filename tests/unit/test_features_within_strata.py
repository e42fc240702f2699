"""What tells samples of one text apart: effects, odds ratios, p that keep their level."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from statsmodels.stats.contingency_tables import StratifiedTable

from vlmdiff.features.within_strata import Strata, compare, least_log_p

LEVEL = 0.05


def pairs(count, images=None):
    """Return strata of two samples, one of each kind; every sample shows an image of its own by default."""
    stratum, kind = np.repeat(np.arange(count), 2), np.tile([True, False], count)
    return Strata(stratum, kind, np.arange(2 * count) if images is None else images)


def groups(sizes, rng, images=None):
    """Return strata of some sizes, with kinds by chance, both in each."""
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    kind = np.concatenate([rng.permutation(np.arange(size) < max(1, size // 2)) for size in sizes])
    return Strata(stratum, kind, np.arange(len(kind)) if images is None else images)


def found(values, strata):
    return compare(csc_matrix(np.atleast_2d(np.asarray(values, float).T).T), strata)


def log_p(draw, strata, runs=2000):
    """Return the p of features that are drawn by chance."""
    values = np.stack([draw() for _ in range(runs)], axis=1)
    return compare(csc_matrix(values), strata).log_p


def rejected(draw, strata, runs=2000):
    """Return the share of p below the level, of features that are drawn by chance."""
    return (log_p(draw, strata, runs) <= np.log(LEVEL)).mean()


def test_in_one_stratum_the_effect_is_cohens_d():
    rng = np.random.default_rng(0)
    strata = groups([60], rng)
    values = rng.normal(2, 1, 60) + strata.kind
    one, other = values[strata.kind], values[~strata.kind]
    spread = np.sqrt((((one - one.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum()) / 60)
    assert found(values, strata).effect[0] == pytest.approx((one.mean() - other.mean()) / spread)


def test_what_is_constant_in_a_stratum_tells_nothing():
    rng = np.random.default_rng(1)
    strata = groups([6] * 20, rng)
    by_text = rng.normal(size=20)[strata.stratum] * 100
    alone = found(np.abs(by_text), strata)
    assert alone.effect[0] == pytest.approx(0, abs=1e-6) and alone.log_p[0] == pytest.approx(0, abs=1e-6)
    values = rng.random(120) + strata.kind
    one, other = found(values, strata), found(values + np.abs(by_text), strata)
    assert one.log_p == pytest.approx(other.log_p)
    # The same difference is a smaller effect on a feature that follows the text.
    assert other.effect[0] < one.effect[0] / 10


def test_rounding_is_no_effect():
    strata = groups([6] * 20, np.random.default_rng(11))
    rounded = found(10 + 1e-5 * strata.kind, strata)
    assert rounded.log_p[0] < np.log(1e-6) and rounded.effect[0] == pytest.approx(1e-3, rel=0.01)


def test_odds_ratio_is_mantel_and_haenszels():
    rng = np.random.default_rng(2)
    strata = groups([8, 12, 20, 30], rng)
    fires = rng.random(70) < 0.3 + 0.3 * strata.kind
    tables = []
    for number in range(4):
        here = strata.stratum == number
        tables.append(
            [
                [(fires & here & kind).sum(), (~fires & here & kind).sum()]
                for kind in (strata.kind, ~strata.kind)
            ]
        )
    expected = StratifiedTable(np.array(tables, float).transpose(1, 2, 0)).oddsratio_pooled
    assert found(fires * 3.0, strata).odds_ratio[0] == pytest.approx(expected)


def test_firings_are_tested_apart_from_their_strength():
    rng = np.random.default_rng(3)
    strata = groups([10] * 30, rng)
    stronger = found(1 + strata.kind, strata)
    assert stronger.log_p_firings[0] == pytest.approx(0) and stronger.log_p[0] < np.log(1e-6)
    equal = found(strata.kind * 1.0, strata)
    assert equal.log_p_firings == pytest.approx(equal.log_p)


def test_exchanged_kinds_give_the_opposite():
    rng = np.random.default_rng(4)
    strata = groups([5, 9, 14], rng)
    values = np.maximum(rng.normal(size=28) + strata.kind, 0)
    turned = Strata(strata.stratum, ~strata.kind, strata.image)
    one, other = found(values, strata), found(values, turned)
    assert one.effect == pytest.approx(-other.effect)
    assert one.log_p == pytest.approx(other.log_p)
    assert one.odds_ratio == pytest.approx(1 / other.odds_ratio)
    assert (one.fires, one.fires_other) == (other.fires_other, other.fires)


@pytest.mark.parametrize("count", [4, 8, 20])
def test_no_p_is_smaller_than_so_many_images_allow(count):
    strata = pairs(count)
    all_one_way = found(strata.kind * 1.0, strata)
    assert all_one_way.log_p[0] == pytest.approx(least_log_p(count))
    # An exact sign test's p is smaller.
    assert all_one_way.log_p[0] >= np.log(2) - count * np.log(2)


def test_a_feature_of_few_samples_never_looks_certain():
    strata = groups([400], np.random.default_rng(5))
    values = np.zeros(400)
    values[np.flatnonzero(strata.kind)[:3]] = 5.0
    assert found(values, strata).log_p[0] > np.log(0.1)


def test_a_silent_feature_tells_nothing():
    silent = found(np.zeros(20), pairs(10))
    assert silent.effect[0] == 0 and silent.log_p[0] == 0 and silent.log_p_firings[0] == 0
    assert silent.fires[0] == 0 and np.isnan(silent.odds_ratio[0])


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [[2] * 60, [4] * 25, [100], [2] * 20 + [30, 40]], ids=str)
def test_p_keep_their_level(sizes, rate):
    rng = np.random.default_rng(6)
    strata = groups(sizes, rng)

    def draw():
        return rng.lognormal(0, 1.5, len(strata.kind)) * (rng.random(len(strata.kind)) < rate)

    assert rejected(draw, strata) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 2000)


@pytest.mark.parametrize(
    ("sizes", "ones", "rate", "texts"),
    [
        ([300], 12, 0.05, 1),
        ([1000], 30, 0.05, 1),
        ([10] * 30, 1, 0.1, 1),
        # Five texts of every image, and the kind is the image's.
        ([200], 20, 0.1, 5),
    ],
)
def test_p_keep_their_level_where_a_kind_and_firings_are_rare(sizes, ones, rate, texts):
    """Most such features fire on no sample of the rare kind: alike, these are no many pieces of knowledge."""
    rng = np.random.default_rng(9)
    kind = np.concatenate([rng.permutation(np.arange(size) < ones) for size in sizes])
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    strata = Strata(
        np.concatenate([stratum + len(sizes) * text for text in range(texts)]),
        np.tile(kind, texts),
        np.tile(np.arange(len(kind)), texts),
    )

    def draw():
        return np.tile((rng.random(len(kind)) < rate) * (1 + 0.1 * rng.random(len(kind))), texts)

    found = log_p(draw, strata)
    for level in (0.05, 0.01, 0.001):
        assert (found <= np.log(level)).mean() <= level + 3 * np.sqrt(level * (1 - level) / 2000)


def test_a_rare_kind_is_told_by_a_feature_that_fires_on_it_alone():
    strata = Strata(np.zeros(300, int), np.arange(300) < 12, np.arange(300))
    assert found(strata.kind * 1.0, strata).log_p[0] < np.log(0.01)


def test_samples_of_one_image_are_one_piece_of_knowledge():
    """Every image is shown with five texts, of which most are true of it; features tell images, not truth."""
    rng = np.random.default_rng(7)
    images = np.repeat(np.arange(40), 5)
    text = np.tile(np.arange(5), 40)
    kind = np.where(rng.random(200) < 0.9, np.repeat(rng.random(40) < 0.5, 5), rng.random(200) < 0.5)

    def draw():
        return np.repeat(rng.random(40), 5)

    level = LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 2000)
    assert rejected(draw, Strata(text, kind, images)) <= level
    assert rejected(draw, Strata(text, kind, np.arange(200))) > 2 * level


def test_what_differs_is_found():
    rng = np.random.default_rng(8)
    strata = groups([4] * 40, rng)

    def draw():
        return np.maximum(rng.normal(size=160) + 0.8 * strata.kind, 0)

    assert rejected(draw, strata, 200) > 0.9


def test_only_strata_of_both_kinds_say_something():
    strata = Strata(np.array([0, 0, 1, 1, 2]), np.array([1, 0, 1, 1, 0], bool), np.arange(5))
    assert strata.informative.tolist() == [True, True, False, False, False]
    assert strata.take(strata.informative).kind.tolist() == [True, False]


def test_blocks_of_features_change_nothing(monkeypatch):
    rng = np.random.default_rng(9)
    strata = groups([6] * 10, rng)
    values = csc_matrix(np.maximum(rng.normal(size=(60, 7)), 0))
    whole = compare(values, strata)
    monkeypatch.setattr("vlmdiff.features.within_strata.BLOCK_VALUES", 130)
    parts = compare(values, strata)
    assert whole.log_p == pytest.approx(parts.log_p) and whole.effect == pytest.approx(parts.effect)

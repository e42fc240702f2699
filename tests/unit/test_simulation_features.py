"""Claims about recurrence and rotation where final features are random labels and nothing rotates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from claims_on_nothing import at_most_one_in_twenty

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.features import recurrence
from vlmdiff.features.adapted import calibrated_threshold, percentile_threshold, threshold_rows
from vlmdiff.features.diff import UNKNOWN
from vlmdiff.features.recurrence import match_layer, with_controls
from vlmdiff.summary.confidence import describe_recurrence, describe_second_null
from vlmdiff.summary.sections import Section
from vlmdiff.tables.features import FEATURE_DIFF, RECURRENCE, THRESHOLDS
from vlmdiff.tables.io import conform

SEEDS, LAYERS, WIDTH, D_MODEL, WORLDS = 3, (0, 1), 120, 24, 8


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """What `twins` makes, again and again: by chance one set of rates is kind to a claim, or hard on it."""
    rng = np.random.default_rng(6)
    return [twins(rng, tmp_path_factory.mktemp("twins")) for _ in range(WORLDS)]


def twins(rng: np.random.Generator, folder):
    """Dictionaries of three seeds: every feature has a near twin in each, at a place and rate of its own.

    The hard case: all features recur, whatever their label. Rates of twins are alike.
    """
    folders = [{} for _ in range(SEEDS)]
    live: list[list[pd.DataFrame]] = [[] for _ in range(SEEDS)]
    for layer in LAYERS:
        rows, rate = rng.normal(size=(WIDTH, D_MODEL)), rng.lognormal(-4, 1, WIDTH)
        for seed in range(SEEDS):
            order = rng.permutation(WIDTH)
            dictionary = TopKDictionary(D_MODEL, WIDTH, k=2)
            moved = rows[order] + 0.3 * rng.normal(size=rows.shape)
            with torch.no_grad():
                dictionary.W_dec.copy_(torch.from_numpy(moved).float())
            folders[seed][layer] = folder / f"{seed}_{layer}"
            save_dictionary(dictionary, folders[seed][layer], {})
            rates = rate[order] * rng.lognormal(sigma=0.2, size=WIDTH)
            live[seed].append(
                pd.DataFrame(
                    {"layer": layer, "feature": np.arange(WIDTH), "visual_rate": rates, "twin": order}
                )
            )
    return folders, [pd.concat(parts, ignore_index=True) for parts in live]


def recurs(world, rng: np.random.Generator, steep: float, planted: float) -> bool:
    """Label features at random as final, more of them at layer 1, and return whether they are said to recur.

    Args:
        world: dictionaries and features.
        rng: random numbers.
        steep: how far features that fire often are more often final.
        planted: share of the labels that all seeds have in common.
    """
    folders, live = world
    common = rng.random((len(LAYERS), WIDTH))
    chosen, final = [], []
    for frame in live:
        layer, twin = frame["layer"].to_numpy(), frame["twin"].to_numpy()
        likely = np.minimum(0.6, (0.06 + 0.06 * layer) * (frame["visual_rate"] / np.exp(-4)) ** steep)
        shared = rng.random(len(frame)) < planted
        drawn = np.where(shared, common[layer, twin], rng.random(len(frame)))
        labels = frame[drawn < likely]
        final.append(labels)
        chosen.append(with_controls(labels, frame.drop(columns="twin")))
    parts = []
    for layer in LAYERS:
        mine, theirs = ([part[part["layer"] == layer] for part in one] for one in (chosen, final))
        parts += match_layer(
            mine, [one[layer] for one in folders], [part["feature"].to_numpy() for part in theirs]
        )
    table = pd.concat(parts, ignore_index=True).assign(concept="c", name="")
    section = Section("")
    describe_recurrence(section, conform(table, RECURRENCE, "").to_pandas())
    assert section.claims == 1
    return not section.failed


@pytest.fixture
def few_exchanges(monkeypatch):
    """A thousand exchanges make an exact p as ten thousand do, and are faster."""
    monkeypatch.setattr(recurrence, "DRAWS", 999)


@pytest.mark.long
def test_random_labels_do_not_recur(worlds, few_exchanges):
    """Features that fire often are more often final, in every seed: only their controls can tell."""
    rng = np.random.default_rng(7)
    at_most_one_in_twenty(sum(recurs(worlds[i % WORLDS], rng, 1.0, 0.0) for i in range(1000)), 1000)


def test_labels_that_follow_the_direction_recur(worlds, few_exchanges):
    rng = np.random.default_rng(8)
    assert sum(recurs(worlds[i % WORLDS], rng, 1.0, 0.7) for i in range(40)) / 40 > 0.8


def more_than_drift(rng: np.random.Generator, rotated: float) -> tuple[bool, bool]:
    """Return whether the summary says so, by the percentile rule and by the calibrated one.

    A feature that drifts far in one training does so in another; some fire on no text and do not move.

    Args:
        rng: random numbers.
        rotated: share of the features that the adapted dictionary rotates beyond drift.
    """
    features = 300
    own = rng.normal(size=features)

    def cosines() -> np.ndarray:
        return 1 - 0.02 * np.exp(own + 0.5 * rng.normal(size=features))

    fired = rng.random(features) < 0.8
    energy = rng.lognormal(-4, 2, features)
    adapted, null, check = (cosines() for _ in range(3))
    adapted -= 0.6 * (rng.random(features) < rotated)
    place = {"layer": np.arange(features) % 3, "feature": np.arange(features), "seed": 0}
    diff = pd.DataFrame({
        **place, "cos_decoder": adapted, "null_cos_decoder": np.where(fired, null, 1.0),
        "similarity": adapted, "null_similarity": np.where(fired, null, 1.0),
        "check_cos_decoder": np.where(fired, check, 1.0), "untuned_cos_decoder": np.nan,
        "cos_encoder": adapted, "null_cos_encoder": null, "calibrated": fired, "check_calibrated": fired,
        "visual_energy": energy, "text_energy": energy, "visual_rate": 0.1,
        **dict.fromkeys(UNKNOWN, np.nan),
    })  # fmt: skip
    diff = conform(diff, FEATURE_DIFF, "").to_pandas()
    taus = {
        "percentile": percentile_threshold(adapted, 25),
        "calibrated": calibrated_threshold(diff, 0.01, 0.01),
    }
    rows = [row for rule, tau in taus.items() for row in threshold_rows(diff, rule, tau, 0.01)]
    section = Section("")
    describe_second_null(section, conform(pd.DataFrame(rows), THRESHOLDS, "").to_pandas())
    assert section.claims == 2
    percentile, calibrated = (not any(rule in text for text in section.failed) for rule in taus)
    return percentile, calibrated


@pytest.mark.long
def test_drift_is_not_called_more_than_drift():
    rng = np.random.default_rng(9)
    found = np.array([more_than_drift(rng, 0.0) for _ in range(400)])
    for hits in found.sum(axis=0):
        at_most_one_in_twenty(int(hits), len(found))


def test_rotation_beyond_drift_is_found():
    """A quarter and more is rotated, so that the percentile rule has no drift to select."""
    rng = np.random.default_rng(10)
    assert (np.mean([more_than_drift(rng, 0.35) for _ in range(40)], axis=0) > 0.8).all()

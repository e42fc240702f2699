"""What a crosscoder tells of features that two models share, and of those that one of them has alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from paired_activations import Planted, planted, write_pair

from vlmdiff.activations.paired import PairedStore, open_store
from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.files import load_dictionary, load_weights, save_dictionary
from vlmdiff.dictionaries.initial import start
from vlmdiff.dictionaries.modules import JumpReLUDictionary
from vlmdiff.dictionaries.partial_reads import halves
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.scales import estimate_input_scale
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.features.adapted import calibrated_threshold, threshold_row
from vlmdiff.features.crosscoder import layer_models, overlap, relative_norm
from vlmdiff.features.latent_scaling import layer_scaling, scale_latents
from vlmdiff.features.rotation import DiffError
from vlmdiff.features.sample_maxima import sample_maxima
from vlmdiff.tables.features import LATENT_SCALING
from vlmdiff.tables.io import read_table

STREAMS = planted()
D_MODEL, D_SAE = STREAMS.base.shape[1], 32
ARCHITECTURE = {
    "kind": "batch_topk",
    "d_sae": D_SAE,
    "k": 2,
    "bandwidth": 0.001,
    "l0_coefficient": 1.0,
    "subtract_decoder_bias": True,
}
STAGE = {
    "tokens": ["text"],
    "steps": 1500,
    "batch_tokens": 256,
    "learning_rate": 3e-3,
    "warmup": 0.05,
    "snapshots": [],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"), STREAMS)


@pytest.fixture(scope="module")
def crosscoder(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("crosscoder")
    before, after = shards
    train_dictionary(
        [*before, *after], "random", 0, 3, ARCHITECTURE, STAGE, {"dictionary": "crosscoder"},
        folder / "layer_0", folder / "work",
    )  # fmt: skip
    return folder / "layer_0"


def test_it_finds_planted_features_and_which_model_has_them(crosscoder):
    decoder = load_weights(crosscoder)["W_dec"]
    assert decoder.shape == (D_SAE, 2 * D_MODEL)
    truth = np.hstack([STREAMS.base, STREAMS.tuned])
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    cosines = decoder @ truth.T
    # Two features may share a direction between them, as in any dictionary.
    found = np.flatnonzero(cosines.max(axis=0) > 0.99)
    assert len(found) >= 13 and len(set(found) & {12, 13, 14, 15}) >= 3
    frame = layer_models(0, {"adapted": crosscoder, "null": crosscoder}).loc[cosines.argmax(axis=0)[found]]
    shared, exclusive = frame[found < 12], frame[found >= 12]
    assert shared["similarity"].min() > 0.95 and shared["relative_norm"].between(0.45, 0.55).all()
    assert exclusive["similarity"].abs().max() < 0.2 and exclusive["relative_norm"].min() > 0.8


def test_a_random_start_is_the_same_for_both_models(shards):
    store = open_store([*shards[0], *shards[1]], 0)
    dictionary, _ = start(store, Recipe.from_params(ARCHITECTURE, STAGE), "random", 5)
    first, second = halves(dictionary.W_dec.detach().numpy())
    assert np.array_equal(first, second) and np.allclose(np.linalg.norm(first, axis=1) ** 2, 0.5)


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (4.0, True)])
def test_models_of_unequal_spread_are_told(tmp_path, caplog, factor, warned):
    """The base model has 12 of 16 features: its variance is three quarters of the other's."""
    store = PairedStore(*write_pair(tmp_path, Planted(STREAMS.base, factor * STREAMS.tuned), tokens=1200), 0)
    start(store, Recipe.from_params(ARCHITECTURE, STAGE), "random", 5)
    assert ("features of the other one may be missed" in caplog.text) == warned


def test_the_statistics_and_contrasts_read_both_models(shards, crosscoder):
    found = sample_maxima([*shards[0], *shards[1]], crosscoder, 0)
    store, dictionary = PairedStore(*shards, 0), load_dictionary(crosscoder)
    chunk = next(store.chunks(["text"], 12))
    expected = dictionary.encode(chunk.values).max(dim=0).values.detach().numpy()
    np.testing.assert_allclose(found.rows(["s0"]).toarray()[0], expected, rtol=1e-5, atol=1e-6)


def saved(folder, rows: np.ndarray, columns: np.ndarray | None = None):
    dictionary = JumpReLUDictionary(rows.shape[1], len(rows))
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.from_numpy(rows))
        dictionary.W_enc.copy_(torch.from_numpy(rows.T if columns is None else columns))
    save_dictionary(dictionary, folder, {})
    return folder


def test_each_measure_by_its_formula(tmp_path):
    rng = np.random.default_rng(0)
    rows, columns, null = rng.normal(size=(7, 10)), rng.normal(size=(10, 7)), rng.normal(size=(7, 10))
    rows[3, :5], null[2] = 0, 0
    folders = {"adapted": saved(tmp_path / "a", rows, columns), "null": saved(tmp_path / "n", null)}
    frame = layer_models(4, folders)
    for feature, row in enumerate(rows):
        one, two = row[:5], row[5:]
        expected = 2 * one @ two / (one @ one + two @ two)
        assert frame.loc[feature, "similarity"] == pytest.approx(expected, abs=1e-6)
        norms = np.linalg.norm(one), np.linalg.norm(two)
        assert frame.loc[feature, "relative_norm"] == pytest.approx(norms[1] / sum(norms), abs=1e-6)
        cosine = one @ two / norms[0] / norms[1] if norms[0] else np.nan
        assert frame.loc[feature, "cos_decoder"] == pytest.approx(cosine, abs=1e-6, nan_ok=True)
    one, two = columns[:5].T, columns[5:].T
    cosines = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    np.testing.assert_allclose(frame["cos_encoder"], cosines, atol=1e-6)
    assert frame["null_similarity"].isna().tolist() == [False, False, True, *[False] * 4]
    assert (frame["layer"] == 4).all() and not frame["check_calibrated"].any()
    assert frame["calibrated"].all()


def test_a_row_of_the_null_that_never_fired_stands_for_nothing(tmp_path):
    rng = np.random.default_rng(1)
    rows, null = rng.normal(size=(6, 10)), rng.normal(size=(6, 10))
    null[4, 5:] = null[4, :5]
    frame = layer_models(0, {"adapted": saved(tmp_path / "a", rows), "null": saved(tmp_path / "n", null)})
    assert frame["null_similarity"].isna().tolist() == [False] * 4 + [True, False]


def test_the_threshold_does_not_hang_on_the_index_of_the_nulls_features():
    rng = np.random.default_rng(2)
    size = 400
    frame = pd.DataFrame({
        "seed": 0, "layer": 0, "feature": np.arange(size), "similarity": rng.uniform(-1, 1, size),
        "null_similarity": rng.uniform(0, 1, size), "relative_norm": rng.uniform(0, 1, size),
        "visual_energy": rng.exponential(0.02, size), "calibrated": True, "check_calibrated": False,
        "check_cos_decoder": np.nan, "untuned_cos_decoder": np.nan,
    })  # fmt: skip
    tau = calibrated_threshold(frame, 0.01, 0.05)
    assert tau == pytest.approx(np.percentile(frame["null_similarity"], 5))
    other = frame.assign(null_similarity=rng.permutation(frame["null_similarity"]))
    assert calibrated_threshold(other, 0.01, 0.05) == tau
    found, again = (threshold_row(one, "calibrated", tau, 0.01) for one in (frame, other))
    assert found["null_adapted"] == again["null_adapted"]
    assert found["null_false_positive_rate"] == pytest.approx(0.05)


def test_the_input_scale_of_a_crosscoder_is_estimated_on_both_models(shards, tmp_path):
    estimate_input_scale([*shards[0], *shards[1]], 0, 1, ["text"], {"scale_on": "x"}, tmp_path / "scale.json")
    assert json.loads((tmp_path / "scale.json").read_text())["input_scale"] > 0


def test_equal_exclusive_and_missing_rows():
    one = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
    two = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(overlap(one, two), [1.0, 0.0, np.nan, 0.6])
    np.testing.assert_allclose(relative_norm(one, two), [0.5, 1.0, np.nan, 0.25])


def test_a_null_of_another_size_is_refused(tmp_path):
    rows = np.ones((4, 6))
    folders = {"adapted": saved(tmp_path / "a", rows), "null": saved(tmp_path / "n", np.ones((5, 6)))}
    with pytest.raises(DiffError, match="layer 0"):
        layer_models(0, folders)


def test_latent_scaling_by_its_formula(shards, tmp_path):
    """A dictionary of the planted directions: shared features are as strong before, others are not there."""
    dictionary = JumpReLUDictionary(D_MODEL, len(STREAMS.tuned))
    with torch.no_grad():
        dictionary.W_dec.copy_(2 * torch.from_numpy(STREAMS.tuned))
        dictionary.W_enc.copy_(torch.from_numpy(STREAMS.tuned.T))
        dictionary.set_threshold(torch.full((16,), 0.3))
        dictionary.b_enc[5] = -99.0
    store = PairedStore(*shards, 0)
    found = layer_scaling([store], dictionary)
    values = torch.cat([chunk.values for chunk in store.chunks(["text"])])
    base, tuned = (part.double().numpy() for part in values.split(D_MODEL, dim=1))
    f = dictionary.encode(values[:, D_MODEL:]).detach().double().numpy()
    d = dictionary.W_dec.detach().double().numpy()
    for feature in (0, 1, 12, 15):
        for name, x in (("beta_base", base), ("beta_model", tuned)):
            along = d[feature] @ (f[:, feature] @ x)
            expected = along / (d[feature] @ d[feature] * (f[:, feature] ** 2).sum())
            assert found[name][feature] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert np.isnan(found["beta_base"][5]) and np.isnan(found["beta_model"][5])
    ratio = found["beta_base"] / found["beta_model"]
    assert np.nanmin(ratio[:12]) > 0.9 and ratio[12:].max() < 0.1
    save_dictionary(dictionary, tmp_path / "d", {})
    layout = {0: [[*shards[0], *shards[1]], [*shards[0], *shards[1]]]}
    texts = {0: [list(shards[0])]}
    folders = [(tmp_path / "d", tmp_path / "d")]
    scale_latents(layout, texts, folders, tmp_path / "scaling.parquet")
    table = read_table(tmp_path / "scaling.parquet", LATENT_SCALING)
    # Of the model before tuning: on the tokens of the pairs, and on all of its own.
    for name, tokens in (
        ("visual_energy_before", torch.from_numpy(base).float()),
        ("text_energy_before", None),
    ):
        if tokens is None:
            tokens = torch.cat([one.values for one in ActivationStore(shards[0], 0).chunks(["text"])])
        squares = dictionary.encode(tokens).detach().double().square().mean(0)
        np.testing.assert_allclose(table[name], squares, rtol=1e-4, atol=1e-9)
    # The same data twice change no least squares.
    pd.testing.assert_series_equal(
        table["beta_base"], pd.Series(found["beta_base"], name="beta_base"), rtol=1e-6
    )

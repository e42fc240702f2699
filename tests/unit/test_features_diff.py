"""Cosines and energies against their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from feature_tables import write_statistics
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.features.diff import UNKNOWN, StatisticsFiles, diff_features
from vlmdiff.features.rotation import DiffError, layer_rotation, moved, row_cosines
from vlmdiff.tables.features import FEATURE_DIFF
from vlmdiff.tables.io import read_table

D_MODEL, D_SAE = 4, 6


def saved(folder: Path, seed: int, d_sae: int = D_SAE) -> Path:
    dictionary = TopKDictionary(D_MODEL, d_sae, k=2)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name in ("W_enc", "W_dec"):
            weight = getattr(dictionary, name)
            weight.copy_(torch.from_numpy(rng.normal(size=weight.shape)))
    save_dictionary(dictionary, folder, {})
    return folder


def weights(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The decoder and encoder that `saved` writes."""
    rng = np.random.default_rng(seed)
    encoder = rng.normal(size=(D_MODEL, D_SAE))
    return rng.normal(size=(D_SAE, D_MODEL)), encoder


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_row_cosines_are_cosines(seed, n, d):
    first, second = np.random.default_rng(seed).normal(size=(2, n, d))
    expected = [f @ s / np.sqrt((f @ f) * (s @ s)) for f, s in zip(first, second)]
    np.testing.assert_allclose(row_cosines(first, second), expected, atol=1e-14)
    np.testing.assert_allclose(row_cosines(first, 3 * first), 1.0, atol=1e-14)


def test_a_row_of_zeros_has_no_cosine():
    assert np.isnan(row_cosines(np.zeros((1, 3)), np.ones((1, 3)))).all()


def statistics(folder: Path, layer: int, rows: list[tuple], tokens: int) -> tuple[Path, Path]:
    """Write rows of (feature, token_type, fires, sum_squares); the same number of tokens of each type."""
    keys = ("feature", "token_type", "fires", "sum_squares")
    table = [{"layer": layer, "group": "g", **dict(zip(keys, row))} for row in rows]
    totals = [
        {"layer": layer, "group": "g", "token_type": kind, "n_tokens": tokens, "n_samples": 1}
        for kind in ("text", "image")
    ]
    return write_statistics(folder / f"layer_{layer}", table, totals)


@pytest.fixture
def inputs(tmp_path):
    """Two layers; two data sets with images, one of text. Image tokens must not count."""
    folders = {
        name: [saved(tmp_path / name / f"layer_{layer}", 10 * number + layer) for layer in (0, 1)]
        for number, name in enumerate(("base", "adapted", "null"))
    }
    rows = {
        "first": [(0, "text", 4, 8.0), (0, "image", 50, 900.0), (5, "text", 1, 2.0)],
        "second": [(0, "text", 2, 4.0)],
        "texts": [(3, "text", 7, 21.0)],
    }
    files = {
        name: [statistics(tmp_path / name, layer, rows[name], tokens * (2 - layer)) for layer in (0, 1)]
        for name, tokens in (("first", 10), ("second", 30), ("texts", 70))
    }
    visual = [*files["first"], *files["second"]]
    return {
        **folders,
        "visual": StatisticsFiles([pair[0] for pair in visual], [pair[1] for pair in visual]),
        "text": StatisticsFiles([pair[0] for pair in files["texts"]], [pair[1] for pair in files["texts"]]),
        "output": tmp_path / "diff.parquet",
    }


def test_diff_table(inputs):
    diff_features([0, 1], "rotation", seed=3, **inputs)
    found = read_table(inputs["output"], FEATURE_DIFF)
    assert len(found) == 2 * D_SAE
    assert (found["seed"] == 3).all()
    layer = found[found["layer"] == 1].set_index("feature")
    for prefix, other in (("", 11), ("null_", 21)):
        for part, column in enumerate((f"{prefix}cos_decoder", f"{prefix}cos_encoder")):
            base, later = weights(1)[part], weights(other)[part]
            base, later = (base, later) if part == 0 else (base.T, later.T)
            cosines = (base * later).sum(1) / np.linalg.norm(base, axis=1) / np.linalg.norm(later, axis=1)
            np.testing.assert_allclose(layer[column], cosines, atol=1e-6)
    assert layer.loc[0, "visual_energy"] == pytest.approx(12 / 40)
    assert layer.loc[0, "visual_rate"] == pytest.approx(6 / 40)
    assert layer.loc[5, "visual_energy"] == pytest.approx(2 / 40)
    assert layer.loc[3, "text_energy"] == pytest.approx(21 / 70)
    # The other layer has twice as many tokens.
    assert found[found["layer"] == 0].set_index("feature").loc[0, "visual_energy"] == pytest.approx(12 / 80)
    assert layer.loc[3, "visual_energy"] == 0
    others = [*UNKNOWN, "check_cos_decoder", "untuned_cos_decoder"]
    assert not found.drop(columns=others).isna().any().any()
    assert found[others].isna().all(axis=None)
    assert found["calibrated"].all() and not found["check_calibrated"].any()


def test_dictionaries_of_different_widths_are_refused(tmp_path):
    same, other = saved(tmp_path / "same", 0), saved(tmp_path / "other", 0, d_sae=7)
    with pytest.raises(DiffError, match=r"layer 2: .*'adapted': \(7, 4\)"):
        layer_rotation(2, {"base": same, "adapted": other, "null": same})


def test_data_without_text_tokens_are_refused(inputs):
    with pytest.raises(DiffError, match=r"layers \[1\]: the statistics hold no text tokens"):
        only_first = StatisticsFiles(inputs["text"].statistics, inputs["text"].totals[:1])
        diff_features([0, 1], "rotation", seed=0, **{**inputs, "text": only_first})


def test_a_second_null_is_compared_too(inputs, tmp_path):
    check = [saved(tmp_path / "check" / f"layer_{layer}", 50 + layer) for layer in (0, 1)]
    diff_features([0, 1], "rotation", seed=3, **inputs, check=check)
    found = read_table(inputs["output"], FEATURE_DIFF)
    expected = np.concatenate([row_cosines(weights(layer)[0], weights(50 + layer)[0]) for layer in (0, 1)])
    np.testing.assert_allclose(found["check_cos_decoder"], expected, rtol=1e-5)
    assert found["check_calibrated"].all()


def test_a_model_that_was_never_tuned_is_compared_too(inputs, tmp_path):
    untuned = [saved(tmp_path / "untuned" / f"layer_{layer}", 70 + layer) for layer in (0, 1)]
    diff_features([0, 1], "rotation", seed=3, **inputs, untuned=untuned)
    found = read_table(inputs["output"], FEATURE_DIFF)
    expected = np.concatenate([row_cosines(weights(layer)[0], weights(70 + layer)[0]) for layer in (0, 1)])
    np.testing.assert_allclose(found["untuned_cos_decoder"], expected, rtol=1e-5)
    assert found["check_cos_decoder"].isna().all()


@pytest.mark.parametrize("width", [64, 2304])
def test_rounding_moves_no_row_and_the_weakest_first_step_of_adam_does(width):
    """Rows that are normalised again and again, and a step at a thousandth of a small learning rate."""
    rows = torch.randn(200, width, generator=torch.Generator().manual_seed(width))
    stored = rows / rows.norm(dim=1, keepdim=True)
    often = 3.7 * stored
    for _ in range(2000):
        often /= often.norm(dim=1, keepdim=True)
    assert not moved(stored.numpy(), often.numpy()).any()
    assert (stored != often).any(), "rounding did something"
    parameter = torch.nn.Parameter(stored.clone())
    parameter.grad = torch.randn(stored.shape, generator=torch.Generator().manual_seed(1))
    torch.optim.Adam([parameter], lr=7e-5 / 1000).step()
    after = parameter.detach() / parameter.detach().norm(dim=1, keepdim=True)
    assert moved(stored.numpy(), after.numpy()).all()


def test_the_limit_of_rounding_is_a_distance():
    angle = 4 * 2.0**-24
    rows = np.array([[1.0, 0.0]] * 3)
    turned = np.array([[np.cos(a), np.sin(a)] for a in (0.99 * angle, 1.01 * angle, np.pi)])
    assert moved(rows, 5 * turned).tolist() == [False, True, True]
    assert not moved(np.zeros((1, 2)), rows[:1]).any()


def test_a_row_that_the_null_left_alone_is_not_calibrated(inputs):
    """Feature 2 of layer 1 is as in the base, but for its length."""
    folder = inputs["null"][1]
    dictionary = TopKDictionary(D_MODEL, D_SAE, k=2)
    decoder, encoder = weights(21)
    decoder[2] = 0.5 * weights(1)[0][2]
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.from_numpy(decoder))
        dictionary.W_enc.copy_(torch.from_numpy(encoder))
    save_dictionary(dictionary, folder, {})
    diff_features([0, 1], "rotation", seed=3, **inputs)
    found = read_table(inputs["output"], FEATURE_DIFF)
    assert found.loc[~found["calibrated"], ["layer", "feature"]].to_numpy().tolist() == [[1, 2]]


def test_a_drift_goes_by_the_energy_that_two_models_have_in_common(inputs, tmp_path):
    """Feature 0 has energy 12 / 80 and 12 / 40 after tuning; before it three times as much at one layer."""
    del inputs["null"]
    inputs["adapted"] = inputs["base"]
    files = {}
    for name, energies in (("before", (36.0, 0.0)), ("tuned_on_text", (18.0, 5.0))):
        found = [
            statistics(tmp_path / name, layer, [(0, "text", 4, energies[layer]), (5, "text", 1, 2.0)], tokens)
            for layer, tokens in ((0, 80), (1, 40))
        ]
        files[name] = StatisticsFiles(*zip(*found))
    diff_features([0, 1], "drift", seed=3, null=(), **inputs, **files)
    table = read_table(inputs["output"], FEATURE_DIFF).set_index(["layer", "feature"])
    similarity, null = table["similarity"], table["null_similarity"]
    assert similarity[0, 0] == pytest.approx(2 * 12 / (12 + 36))
    assert null[0, 0] == pytest.approx(2 * 18 / (18 + 36))
    # Nothing before, and something after.
    assert similarity[1, 0] == null[1, 0] == 0
    assert similarity[1, 5] == pytest.approx(1) and null[1, 5] == pytest.approx(1)
    # Never fired: there is nothing to compare, nor a null that says anything.
    assert np.isnan([similarity[0, 3], null[0, 3]]).all()
    assert table["calibrated"].equals(null.notna())
    np.testing.assert_allclose(table["cos_decoder"], 1)
    assert table["null_cos_decoder"].isna().all()


def test_a_rotation_goes_by_the_cosine_of_decoder_rows(inputs):
    diff_features([0, 1], "rotation", seed=3, **inputs)
    table = read_table(inputs["output"], FEATURE_DIFF)
    assert table["similarity"].equals(table["cos_decoder"])
    assert table["null_similarity"].equals(table["null_cos_decoder"])

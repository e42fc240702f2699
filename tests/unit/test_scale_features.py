"""Feature stages at real size: parts instead of wholes, bounded memory, several devices, 16 bits."""

from __future__ import annotations

import logging
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import torch
from safetensors.numpy import load_file, save_file

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.evaluation import median_cosine
from vlmdiff.dictionaries.files import load_dictionary, load_weights, save_dictionary
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.partial_reads import count_features, feature_rows, load_encoder
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.features import lexical, neutral, rotation
from vlmdiff.features.firings import Firings
from vlmdiff.features.lexical import NeutralRuns, measure_in_groups
from vlmdiff.features.neutral import OwnWords, groups_in_memory, largest_on_text, with_prompts
from vlmdiff.features.top_samples import TopSamples, compact
from vlmdiff.interventions.matching import MatchedFeatures
from vlmdiff.models.memory import spare_bytes
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.features import TOTALS
from vlmdiff.tables.io import TableError, read_table, write_table

STAGES = ("base", "adapted", "null")


def random_dictionary(d_model: int, d_sae: int, seed: int, kind: str = "topk"):
    dictionary = TopKDictionary(d_model, d_sae, k=4) if kind == "topk" else JumpReLUDictionary(d_model, d_sae)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return dictionary


@pytest.fixture
def folder(tmp_path):
    save_dictionary(random_dictionary(8, 30, 0), tmp_path / "dictionary", {})
    return tmp_path / "dictionary"


def test_parts_equal_the_whole(folder):
    whole = load_weights(folder)
    with feature_rows(folder) as file:
        assert file.shape == (30, 8)
        np.testing.assert_array_equal(file.decoder(7, 12), whole["W_dec"][7:12])
        np.testing.assert_array_equal(file.encoder(7, 12), whole["W_enc"][:, 7:12].T)


def change(folder, name, values):
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({**weights, name: values(weights[name])}, folder / "sae_weights.safetensors")


def broken_at(row):
    def values(matrix):
        matrix[row, 0] = np.nan
        return matrix

    return values


def test_damaged_parts_are_refused_and_the_rest_is_not_looked_at(folder):
    change(folder, "W_dec", broken_at(5))
    with feature_rows(folder) as file:
        assert np.isfinite(file.decoder(6, 30)).all()
        with pytest.raises(DictionaryError, match="W_dec holds NaN"):
            file.decoder(5, 6)
    change(folder, "W_enc", lambda matrix: matrix[:, :29].copy())
    with pytest.raises(DictionaryError, match=r"W_enc has shape \(8, 29\)"), feature_rows(folder):
        pass
    shutil.copy(folder / "cfg.json", folder / "sae_weights.safetensors")
    with pytest.raises(DictionaryError, match="cannot be read"), feature_rows(folder):
        pass
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(DictionaryError, match="not found"), feature_rows(folder):
        pass


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_an_encoder_alone_encodes_as_the_whole(tmp_path, kind):
    save_dictionary(random_dictionary(8, 30, 1, kind), tmp_path, {})
    x = torch.randn(11, 8, generator=torch.Generator().manual_seed(2))
    encoder, whole = load_encoder(tmp_path, "cpu", 8), load_dictionary(tmp_path)
    assert torch.equal(encoder.encode(x), whole.encode(x))
    assert sum(value.numel() for value in encoder.parameters()) < 8 * 30 + 3 * 30 + 9


def test_the_family_of_tests_is_what_the_dictionaries_hold(tmp_path):
    for d_sae in (30, 50):
        save_dictionary(random_dictionary(8, d_sae, 0), tmp_path / str(d_sae), {})
    assert count_features([tmp_path / "30", tmp_path / "50"]) == 80


def test_cosines_do_not_depend_on_how_many_features_are_read_at_once(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in STAGES]
    for seed, path in enumerate(folders):
        save_dictionary(random_dictionary(24, 50, seed), path, {})
    whole = rotation.layer_rotation(3, dict(zip(STAGES, folders)))
    monkeypatch.setattr(rotation, "BLOCK", 7)
    pd.testing.assert_frame_equal(
        rotation.layer_rotation(3, dict(zip(STAGES, folders))), whole, check_exact=True
    )


def test_the_diff_of_a_layer_never_holds_a_whole_dictionary(tmp_path):
    folders = [tmp_path / name for name in STAGES]
    d_model, d_sae = 128, 16_384
    for path in folders:
        save_dictionary(TopKDictionary(d_model, d_sae, 4), path, {})
    rotation.layer_rotation(0, dict(zip(STAGES, folders)))  # imports count once
    tracemalloc.start()
    rotation.layer_rotation(0, dict(zip(STAGES, folders)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * d_sae * d_model * 4


def test_median_cosine_in_pieces():
    rng = np.random.default_rng(0)
    rows, initial = rng.normal(size=(2, 9000, 5))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(initial, axis=1)
    assert median_cosine(rows, initial) == pytest.approx(np.median((rows * initial).sum(axis=1) / norms))


def test_kept_top_samples_take_29_bytes_a_row():
    whole = np.arange(100)
    rows = compact(Firings(whole, whole % 2, whole, whole / 7, whole, whole, whole))
    assert sum(vars(rows)[name].nbytes for name in vars(rows)) == 2900
    np.testing.assert_array_equal(rows.activation, whole / 7)


def test_keys_of_many_groups_do_not_overflow_their_small_types():
    n_groups, d_sae = 70_000, 32_768
    top = TopSamples(np.array([n_groups - 1]), n_groups, 1, 1)
    top.d_sae = d_sae
    rows = compact(Firings(*(np.array([0, 0]) for _ in range(2)), np.array([5, 6]), *[np.ones(2)] * 4))
    assert top.key(rows).tolist() == [(n_groups - 1) * d_sae + 5, (n_groups - 1) * d_sae + 6]


@pytest.mark.parametrize("name", ["totals.parquet", "totals.csv"])
def test_some_columns_and_rows_of_a_table(tmp_path, name):
    frame = pd.DataFrame(
        {
            "layer": [0, 1, 1],
            "group": ["a", "b", "a"],
            "token_type": ["text", "image", "text"],
            "n_tokens": [3, 4, 5],
            "n_samples": [1, 2, 2],
            "sum_tokens_squares": [9, 8, 13],
        }
    )
    write_table(frame, TOTALS, tmp_path / name)
    rows = (pc.field("token_type") == "text") & pc.field("group").isin(["a"])
    found = read_table(tmp_path / name, TOTALS, ["n_tokens", "layer"], rows)
    assert list(found.columns) == ["n_tokens", "layer"]
    assert found.to_numpy().tolist() == [[3, 0], [5, 1]]


def test_a_foreign_table_is_refused_whatever_columns_are_asked_for(tmp_path):
    pd.DataFrame({"layer": [0], "more": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match="missing.*n_tokens.*unknown.*more"):
        read_table(tmp_path / "t.parquet", TOTALS, ["layer"])


def test_layers_are_grouped_by_what_fits():
    assert groups_in_memory([1, 4, 5, 9], each=10, budget=25) == [[1, 4], [5, 9]]
    assert groups_in_memory([1, 4, 5], each=10, budget=10**6) == [[1, 4, 5]]
    assert groups_in_memory([1, 4], each=10, budget=0) == [[1], [4]]


def test_a_cpu_has_the_memory_that_it_is_given():
    assert spare_bytes(torch.device("cpu"), on_cpu=123) == 123


def test_lexical_measurements_do_not_depend_on_how_layers_are_grouped(
    tiny_vlm_path, tiny_dataset, tmp_path, monkeypatch
):
    subject = load_subject("vlm", {"family": "llava"}, tiny_vlm_path)
    folders = {layer: tmp_path / str(layer) for layer in (0, 1, 2)}
    for layer, path in folders.items():
        save_dictionary(random_dictionary(32, 40, layer), path, {})
    shown = with_prompts(load_samples(tiny_dataset / "samples.jsonl", limit=4), ["Describe this image."])
    features = {0: [1, 5], 1: [7], 2: [0, 39]}
    runs = NeutralRuns("vlm", {}, tiny_vlm_path, folders, "", [], batch_tokens=256)
    at_once = measure_in_groups(subject, shown, features, runs, OwnWords())
    monkeypatch.setattr(lexical, "ENCODERS_ON_CPU", 4 * 40 * 32)
    one_by_one = measure_in_groups(subject, shown, features, runs, OwnWords())
    assert sorted(at_once) == sorted(one_by_one) == [0, 1, 2]
    for layer in features:
        np.testing.assert_array_equal(at_once[layer], one_by_one[layer])
    assert any(values.any() for values in at_once.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_residuals_are_encoded_in_float32(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    dictionary, exact = random_dictionary(16, 64, 3), random_dictionary(16, 64, 3).double()
    residual = torch.randn(3, 9, 16, generator=generator).to(dtype)
    token_type = torch.tensor([BOS, IMAGE, IMAGE, TEXT, TEXT, TEXT, TEXT, TEXT, PADDING]).to(torch.uint8)
    token_type = token_type.expand(3, 9)
    with torch.no_grad():
        found = largest_on_text(residual, token_type, dictionary, [3, 0, 63])
        expected = exact.encode(residual[:, 3:8].double().flatten(0, 1)).view(3, 5, 64).amax(dim=1)
        monkeypatch.setattr(neutral, "CHUNK_VALUES", 128)
        in_chunks = largest_on_text(residual, token_type, dictionary, [3, 0, 63])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected[:, [3, 0, 63]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(in_chunks, found, rtol=1e-6, atol=1e-6)


def test_a_million_features_are_matched_without_a_warning(caplog):
    layers, width = 32, 32_768
    draw = np.random.default_rng(0)
    activity = pd.DataFrame(
        {
            "layer": np.repeat(np.arange(layers), width),
            "feature": np.tile(np.arange(width), layers),
            "rate": draw.random(layers * width),
            "energy": draw.random(layers * width),
        }
    )
    with caplog.at_level(logging.WARNING):
        matched = MatchedFeatures(activity, [(3, i) for i in range(7, 20)])
        drawn = [matched.draw([(3, 7), (31, 0)], np.random.default_rng(seed)) for seed in range(20)]
    for name in ("rate", "energy"):
        values = activity[name].to_numpy()
        for (_, first), (_, second) in drawn:
            assert first not in range(7, 20)
            assert values[3 * width + first] == pytest.approx(values[3 * width + 7], rel=0.05)
            assert values[31 * width + second] == pytest.approx(values[31 * width], rel=0.05)
    assert not caplog.text

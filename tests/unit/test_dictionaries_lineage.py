"""A dictionary that is said to come from another one keeps its feature indices, or is refused."""

import json

import numpy as np
import pytest
import torch
from published_dictionaries import random_weights, write_gemma_scope, write_mmdiff

from vlmdiff.dictionaries import cosines
from vlmdiff.dictionaries.cosines import median_cosine
from vlmdiff.dictionaries.importing import fetch_dictionary, import_dictionary
from vlmdiff.dictionaries.lineage import LEAST_MEDIAN, check_lineage
from vlmdiff.dictionaries.weights import DictionaryError

D_MODEL, D_SAE = 64, 512


def rows(seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(D_SAE, D_MODEL)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def turned(base: np.ndarray, cosine: float, seed: int = 9) -> np.ndarray:
    """Return rows, each turned to exactly this cosine, of another length."""
    noise = np.random.default_rng(seed).normal(size=base.shape)
    noise -= (noise * base).sum(1, keepdims=True) * base
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return (3 * (cosine * base + (1 - cosine**2) ** 0.5 * noise)).astype(np.float32)


@pytest.fixture
def initial(tmp_path):
    """A folder with a base dictionary of the rows above."""
    from vlmdiff.dictionaries.files import save_dictionary
    from vlmdiff.dictionaries.modules import TopKDictionary

    base = TopKDictionary(D_MODEL, D_SAE, 4)
    with torch.no_grad():
        base.W_dec.copy_(torch.from_numpy(rows()))
    save_dictionary(base, tmp_path / "base", {})
    return tmp_path / "base"


def test_the_median_is_that_of_all_features(monkeypatch):
    base = rows()
    adapted = np.concatenate([base[:300], rows(5)[300:]])
    assert median_cosine(adapted, base) == pytest.approx(1.0)
    monkeypatch.setattr(cosines, "COSINE_ROWS", 7)
    assert median_cosine(turned(base, 0.4), base) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("cosine", [1.0, 0.9, 0.5, 0.3])
def test_fine_tuned_rows_are_taken(initial, cosine):
    check_lineage(turned(rows(), cosine), initial, "adapted")


def test_a_few_rows_that_turned_far_or_died_are_taken(initial):
    adapted = turned(rows(), 0.9)
    adapted[:200] = rows(5)[:200]
    adapted[200:210] = 0
    check_lineage(adapted, initial, "adapted")


OTHER = "Dictionaries of another L0, width, seed, layer or model are separate trainings"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda base: rows(1), rf"is -?0\.0\d\d, expected at least {LEAST_MEDIAN}.*± 0\.12.*{OTHER}"),
        (lambda base: turned(base, 0.2), f"is 0.200, expected.*{OTHER}"),
        (
            lambda base: base[np.random.default_rng(2).permutation(D_SAE)],
            "same features in another order.* 1.00",
        ),
        (
            lambda base: np.roll(base, -1, axis=0),
            r"same features shifted by 1:.*feature 0 is feature 1 there",
        ),
        (lambda base: np.roll(turned(base, 0.95), 7, axis=0), r"shifted by 505:.* 0\.95 "),
        (lambda base: -base, "is -1.000.*point the other way"),
        (lambda base: np.zeros_like(base), "is 0.000"),
        (lambda base: base[:100], r"is \(100, 64\), that of its `initial` .* is \(512, 64\).*another width"),
    ],
    ids=["another seed", "hardly", "order", "shift", "tuned shift", "sign", "zeros", "width"],
)
def test_rows_of_another_training_are_refused(initial, change, words):
    with pytest.raises(DictionaryError, match=f"adapted: .*{words}"):
        check_lineage(change(rows()), initial, "adapted")


def imported(root, format, file, layer, initial=None):
    options = {"k": None, "subtract_decoder_bias": None, "input_scale": None}
    name = str(file.relative_to(root))
    fetch_dictionary(str(root), format, {layer: name}, root / "sources.json")
    out = root / f"out_{layer}_{format}"
    import_dictionary(root / "sources.json", layer, format, options, (None, 96), {}, out, initial)
    return out


def test_the_authors_dictionary_beside_the_canonical_base_is_refused_at_import(tmp_path):
    """Their dictionary of layer 3 started from the base of another L0, of which it keeps the indices."""
    canonical = imported(
        tmp_path, "gemma_scope", write_gemma_scope(tmp_path / "l0_100/layer_3", random_weights(1)), 3
    )
    own = random_weights(2)
    nearest = imported(tmp_path, "gemma_scope", write_gemma_scope(tmp_path / "l0_50/layer_4", own), 4)
    tuned = {**own, "W_dec": own["W_dec"] + 0.05 * random_weights(3)["W_dec"]}
    adapted = write_mmdiff(tmp_path / "text-only_layer_3.pt", tuned)
    with pytest.raises(DictionaryError, match=f"text-only_layer_3.pt: the median cosine.*{OTHER}"):
        imported(tmp_path, "mmdiff", adapted, 3, canonical)
    assert not (tmp_path / "out_3_mmdiff").exists()
    out = imported(tmp_path, "mmdiff", adapted, 3, nearest)
    cosine = json.loads((out / "cfg.json").read_text())["metadata"]["median_cosine"]
    expected = torch.nn.functional.cosine_similarity(own["W_dec"], tuned["W_dec"], dim=1).median()
    assert cosine == pytest.approx(float(expected), abs=0.01)

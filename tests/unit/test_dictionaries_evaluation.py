"""Held-out metrics against a naive computation on all tokens at once."""

import numpy as np
import pytest
import torch
from sparse_activations import write_sparse_shards
from test_dictionaries_modules import randomise

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.evaluation import evaluate_dictionary, median_cosine, score_dictionaries
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import DICTIONARY_METRICS

BOTH = ["text", "image"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), tokens=2000, scale=100.0)


def everything(store):
    chunks = list(store.chunks())
    return torch.cat([c.values for c in chunks]), torch.cat([c.token_type for c in chunks])


def jumping(lowest: float) -> JumpReLUDictionary:
    """A dictionary with thresholds from `lowest` on: below zero, negative activations pass."""
    dictionary = randomise(JumpReLUDictionary(16, 600))
    dictionary.set_threshold(torch.linspace(lowest, 400, 600))
    return dictionary


KINDS = {
    "topk": lambda: randomise(TopKDictionary(16, 600, 4)),
    "jumprelu": lambda: jumping(20),
    "jumprelu below zero": lambda: jumping(-50),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens, code", [("text", 2), ("image", 1), ("all", None)])
def test_scores_equal_a_naive_computation(shards, tokens, code, kind):
    store = ActivationStore(shards, 0)
    dictionary = KINDS[kind]()
    score = score_dictionaries(store, {100: dictionary})[100][tokens].metrics()
    x, types = everything(store)
    x = x[types == code] if code else x
    z = dictionary.encode(x).detach()
    assert bool((z < 0).any()) == (kind == "jumprelu below zero")
    error = (x - dictionary.decode(z).detach()).double().square().sum()
    variance = (x.double() - x.double().mean(dim=0)).square().sum()
    assert score["n_tokens"] == len(x)
    assert score["fvu"] == pytest.approx(float(error / variance), rel=1e-6)
    assert score["l0"] == pytest.approx(float((z != 0).sum(dim=1).double().mean()))
    assert score["dead"] == int((~(z != 0).any(dim=0)).sum()) > 0


def test_a_dictionary_that_gives_the_mean_explains_nothing(shards):
    store = ActivationStore(shards, 0)
    dictionary = TopKDictionary(16, 32, 4)
    with torch.no_grad():
        dictionary.b_dec.copy_(everything(store)[0].mean(dim=0))
    assert score_dictionaries(store, {100: dictionary})[100]["all"].metrics()["fvu"] == pytest.approx(
        1, abs=1e-5
    )


def test_median_cosine():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    initial = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert median_cosine(rows, initial) == pytest.approx(0.0)


def test_table_has_every_layer_snapshot_set_and_kind_of_token(shards, tmp_path):
    text_only = write_sparse_shards(tmp_path / "text", tokens=400, seed=3, image=False)
    dictionary = randomise(TopKDictionary(16, 64, 4))
    for layer in (0, 1):
        folder = tmp_path / "d" / f"layer_{layer}"
        save_dictionary(dictionary, folder, {})
        save_dictionary(dictionary, folder / "snapshots" / "50", {})
        save_dictionary(dictionary, tmp_path / "initial" / f"layer_{layer}", {})
    sets = [
        {"model": "vlm", "dataset": "questions", "tokens": BOTH, "shards": dict.fromkeys((0, 1), shards)},
        {"model": "lm", "dataset": "text", "tokens": BOTH, "shards": dict.fromkeys((0, 1), text_only)},
    ]
    evaluate_dictionary(
        folders={layer: tmp_path / "d" / f"layer_{layer}" for layer in (0, 1)},
        initials={layer: tmp_path / "initial" / f"layer_{layer}" for layer in (0, 1)},
        snapshots=[50, 100],
        sets=sets,
        dictionary="adapted",
        seed=2,
        output=tmp_path / "metrics.csv",
    )
    table = read_table(tmp_path / "metrics.csv", DICTIONARY_METRICS)
    # 2 layers x 2 snapshots x (all, text, image of questions; all, text of text)
    assert len(table) == 2 * 2 * 5
    assert not table.duplicated(["layer", "snapshot", "model", "dataset", "tokens"]).any()
    assert set(table.snapshot) == {50, 100}
    assert table.cos_initial.between(1 - 1e-6, 1 + 1e-6).all()
    assert set(table[table.dataset == "text"].tokens) == {"all", "text"}


def test_random_start_has_no_cosine(shards, tmp_path):
    save_dictionary(randomise(TopKDictionary(16, 64, 4)), tmp_path / "d", {})
    entry = {"model": "vlm", "dataset": "questions", "tokens": BOTH, "shards": dict.fromkeys((0, 1), shards)}
    evaluate_dictionary({0: tmp_path / "d"}, {}, [], [entry], "base", 0, tmp_path / "metrics.csv")
    assert read_table(tmp_path / "metrics.csv", DICTIONARY_METRICS).cos_initial.isna().all()


def test_no_evaluation_set_gives_an_empty_table(tmp_path):
    save_dictionary(randomise(TopKDictionary(16, 64, 4)), tmp_path / "d", {})
    evaluate_dictionary({0: tmp_path / "d"}, {}, [], [], "base", 0, tmp_path / "metrics.csv")
    assert read_table(tmp_path / "metrics.csv", DICTIONARY_METRICS).empty

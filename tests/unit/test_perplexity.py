"""Perplexity of plain text: transformers' own loss, held against the first model, claimed by its interval."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlmdiff.config.perplexity import PerplexityConfig
from vlmdiff.data.samples import load_samples
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.interventions.perplexity import document_losses, evaluate_perplexity, ratio_interval
from vlmdiff.summary.language import describe_language
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import PERPLEXITY


@pytest.fixture(scope="module")
def texts(tiny_text_dataset) -> Path:
    return tiny_text_dataset / "samples.jsonl"


def model(name: str, folder: Path, family: str = "causal_lm") -> ModelFiles:
    return ModelFiles(name, {"family": family}, str(folder / "config.json"))


def test_losses_are_those_of_transformers(texts, tiny_lm_path):
    samples = load_samples(texts)[:7]
    losses, tokens = document_losses(model("base", tiny_lm_path).load(), samples, batch_tokens=60)
    plain, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_lm_path),
        AutoTokenizer.from_pretrained(tiny_lm_path),
    )
    for i, sample in enumerate(samples):
        ids = tokenizer(sample.prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = plain(input_ids=ids, labels=ids).loss.item()
        assert tokens[i] == ids.shape[1] - 1
        assert losses[i] / tokens[i] == pytest.approx(expected, rel=1e-5)


def test_a_model_that_sees_reads_text_alone(texts, tiny_vlm_path):
    losses, tokens = document_losses(
        model("vlm", tiny_vlm_path, "llava").load(), load_samples(texts)[:3], 2048
    )
    assert (losses > 0).all() and (tokens > 0).all()


@pytest.fixture(scope="module")
def table(texts, tiny_lm_path, tmp_path_factory) -> pd.DataFrame:
    """The same model twice, and one that is too sure."""
    folder = tmp_path_factory.mktemp("perplexity")
    shutil.copytree(tiny_lm_path, folder / "worse")
    worse = AutoModelForCausalLM.from_pretrained(tiny_lm_path)
    with torch.no_grad():
        worse.get_output_embeddings().weight.mul_(1.6)
    worse.save_pretrained(folder / "worse")
    models = [model("base", tiny_lm_path), model("same", tiny_lm_path), model("worse", folder / "worse")]
    evaluate_perplexity(models, texts, "text", 2048, 0, folder / "table.csv")
    return read_table(folder / "table.csv", PERPLEXITY)


def test_the_first_model_is_the_measure(table):
    found = table.set_index("model")
    assert found.loc["base", ["ratio", "ratio_low", "ratio_high"]].tolist() == [1, 1, 1]
    assert found.loc["same", "ratio"] == 1
    worse = found.loc["worse"]
    assert worse["ratio_low"] < worse["ratio"] < worse["ratio_high"]
    assert worse["ratio"] == pytest.approx(worse["perplexity"] / found.loc["base", "perplexity"])
    assert worse["ratio_low"] > 1.2
    assert np.exp(worse["loss"]) == pytest.approx(worse["perplexity"])


def test_the_interval_draws_the_same_texts_for_both():
    """A model that is worse by the same factor on every text has an interval of no width."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 200)
    first = rng.gamma(5, 1, 200) * tokens
    assert ratio_interval(first + np.log(1.5) * tokens, tokens, (first, tokens), 0) == pytest.approx(
        (1.5, 1.5)
    )
    noisy = first + np.log(1.5) * tokens + rng.normal(0, 5, 200)
    low, high = ratio_interval(noisy, tokens, (first, tokens), 0)
    assert low < 1.5 < high and high - low < 0.2


@pytest.mark.parametrize(
    ("studied", "limit", "holds"), [("same", 1.1, True), ("worse", 1.1, False), ("worse", 50, True)]
)
def test_language_is_kept_if_the_whole_interval_lies_below_the_limit(table, studied, limit, holds):
    section = describe_language(table, studied, limit)
    assert section.claims == 1 and bool(section.failed) != holds
    text = "\n".join(section.lines)
    assert ("**kept**" in text) == holds
    assert all(name in text for name in ("base", "same", "worse"))


def test_nothing_is_said_where_nothing_was_measured():
    assert describe_language(PERPLEXITY.empty_table().to_pandas(), "vlm", None).lines == []


def test_the_first_model_alone_is_no_comparison():
    with pytest.raises(ValueError, match="at least 2"):
        PerplexityConfig(models=["base_lm"], dataset="text_val")

"""Extraction from real models: transformers' hidden states, without the first and without massive tokens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlmdiff.activations.precision import from_storage
from vlmdiff.activations.shards import open_shard
from vlmdiff.data.samples import Sample
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.models.registry import load_subject

DOCUMENTS, WORDS = 6, 40
# Blocks before, in and after the middle; of 30 and of 18.
LAYERS = {"smollm2": [8, 20, 29], "gemma3_270m": [5, 8, 17]}


@pytest.fixture(scope="session")
def documents(text: Path) -> list[str]:
    """Paragraphs; the last one begins with a word piece that SmolLM2 makes massive."""
    rows = [json.loads(line)["text"] for line in (text / "held_out.jsonl").read_text().splitlines()]
    found = [" ".join(row.split()[:WORDS]) for row in rows[: DOCUMENTS - 1]]
    return [*found, f"Agassi {found[0]}"]


@cache
def hidden_states(folder: Path, documents: tuple[str, ...]) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Return token ids and all hidden states (tokens, d_model) of each document from transformers itself."""
    model, tokenizer = (one.from_pretrained(folder) for one in (AutoModelForCausalLM, AutoTokenizer))
    found = []
    with torch.inference_mode():
        for document in documents:
            inputs = tokenizer(document, return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states
            found.append((inputs.input_ids[0].numpy(), [one[0].numpy() for one in states]))
    return found


@pytest.fixture(params=sorted(LAYERS))
def extracted(request, documents, tmp_path):
    """A shard of each model, and what transformers computes of the same documents."""
    folder, layers = request.getfixturevalue(request.param), LAYERS[request.param]
    subject = load_subject(request.param, {"family": "causal_lm"}, folder)
    samples = [
        Sample(sample_id=str(i), prompt=document, group="text", chat=False)
        for i, document in enumerate(documents)
    ]
    extract_block(
        subject, samples, tmp_path / "s.h5", dataset="text", block=0, shard_samples=100, layers=layers,
        storage="bfloat16",
    )  # fmt: skip
    return request.param, open_shard(tmp_path / "s.h5"), hidden_states(folder, tuple(documents))


def test_a_shard_holds_the_hidden_states_after_the_first_token(extracted):
    name, shard, expected = extracted
    ids = np.concatenate([tokens[1:] for tokens, _ in expected])
    assert shard.token_id.tolist() == ids.tolist() and shard.position.min() == 1
    # The last of transformers' hidden states is after the final norm: another thing.
    for layer in LAYERS[name][:-1]:
        states = np.concatenate([states[layer + 1][1:] for _, states in expected])
        stored = from_storage(shard.read(layer, 0, shard.n_tokens)).numpy()
        data = ~shard.massive(layer)
        # Half a unit in the last place of bfloat16, and what batching moves.
        bound = (2**-8 * np.abs(states) + 1e-3) * 1.01
        assert (np.abs(stored - states) < bound)[data].all()


def test_massive_tokens_are_those_of_transformers_hidden_states(extracted):
    name, shard, expected = extracted
    for layer in LAYERS[name][:-1]:
        norms = [np.linalg.norm(states[layer + 1][1:], axis=1) for _, states in expected]
        massive = np.concatenate([one > 10 * np.quantile(one, 0.5, method="lower") for one in norms])
        assert shard.massive(layer).tolist() == massive.tolist()


def test_the_first_token_would_be_nearly_all_of_the_variance(extracted):
    name, _, expected = extracted
    layer = LAYERS[name][1]
    first = np.stack([states[layer + 1][0] for _, states in expected])
    others = np.concatenate([states[layer + 1][1:] for _, states in expected])
    mean = np.concatenate([first, others]).mean(0)
    parts = [((one - mean) ** 2).sum() for one in (first, others)]
    assert parts[0] / sum(parts) > 0.5

"""The converted weights are whole: they know English and a fact; train and held-out text share nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def rows(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", ["smollm2", "gemma3_270m"])
def test_a_converted_model_knows_a_capital(name: str, request: pytest.FixtureRequest):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = request.getfixturevalue(name)
    model, tokenizer = (one.from_pretrained(folder) for one in (AutoModelForCausalLM, AutoTokenizer))
    cities = ["Paris", "London", "Berlin", "Rome", "Madrid"]
    words = [tokenizer.encode(f" {city}", add_special_tokens=False)[0] for city in cities]
    with torch.inference_mode():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert cities[int(logits[words].argmax())] == "Paris"


def test_held_out_text_is_of_other_articles(text: Path):
    train, held_out = rows(text / "train.jsonl"), rows(text / "held_out.jsonl")
    assert len(train) > 3000 and len(held_out) > 800
    assert not set(train) & set(held_out)
    assert all("[[" not in one and "{{" not in one for one in train)

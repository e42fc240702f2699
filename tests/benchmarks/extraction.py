"""Capturing residuals beside the bare forward pass of the same padded batches, and one sample at a time."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import torch
from tiny_models import build_tiny_lm, tiny_sentence, write_samples

from benchmarks.harness import Goal, measure, ratio_row

SAMPLES, BATCH_TOKENS = 96, 2_048
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    # A real vocabulary: the head is what extraction does without.
    "vocab_size": 32_000,
    "initializer_range": 0.02,
}


def corpus(folder: Path) -> Path:
    """Write documents of 7 to 30 words, the length of questions."""
    rng, samples = random.Random(0), []
    for index in range(SAMPLES):
        text = " ".join(tiny_sentence(rng) for _ in range(rng.randint(1, 4)))
        line = {"sample_id": f"text_{index}", "image": None, "prompt": text, "answer": None, "choices": None}
        samples.append(line | {"group": "text", "chat": False})
    return write_samples(folder, samples)


@torch.inference_mode()
def rows(rounds: int) -> list[dict[str, object]]:
    """Measure all layers, and the first half of them."""
    from vlmdiff.data.batching import prepare_batches
    from vlmdiff.data.samples import load_samples
    from vlmdiff.extraction.blocks import Keeping, capture_samples
    from vlmdiff.extraction.left_out import LeftOut
    from vlmdiff.models.registry import load_subject

    with tempfile.TemporaryDirectory() as folder:
        path = build_tiny_lm(Path(folder) / "lm", **SHAPE)
        samples = load_samples(corpus(Path(folder) / "text") / "samples.jsonl")
        subject = load_subject("lm", {"family": "causal_lm"}, path)
    layers = list(range(subject.n_layers))
    batches = [batch for _, batch in prepare_batches(subject, samples, BATCH_TOKENS)]
    single = [batch for one in samples for _, batch in prepare_batches(subject, [one], BATCH_TOKENS)]

    def forward(some: list, model: torch.nn.Module) -> None:
        for batch in some:
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    def capture(some: list[int]) -> None:
        capture_samples(subject, samples, some, Keeping(token_types=("text",)), BATCH_TOKENS, LeftOut())

    times = measure(
        {
            "capture": lambda: capture(layers),
            "capture half": lambda: capture(layers[: len(layers) // 2]),
            "bare": lambda: forward(batches, subject.model),
            "headless": lambda: forward(batches, subject.decoder),
            "single": lambda: forward(single, subject.decoder),
        },
        rounds,
    )
    size = f"{SAMPLES} questions, 8 blocks x 256, vocabulary 32,000"
    captured = times["capture"]
    ratios = (
        ("capture / bare forward", captured / times["bare"], Goal(most=0.9)),
        ("capture / forward without head", captured / times["headless"], Goal(most=1.05)),
        ("one by one / capture", times["single"] / captured, Goal(least=1.3)),
        ("first half of the layers / all", times["capture half"] / captured, Goal()),
    )
    return [ratio_row("extraction", size, *one) for one in ratios]

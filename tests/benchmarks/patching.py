"""Attribution and exact patching in forward passes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tiny_models import build_tiny_dataset, build_tiny_vlm

from benchmarks.harness import Goal, measure, ratio_row

SAMPLES, BATCH_TOKENS = 32, 2_048
# Narrow, where the graph's own cost shows; and wide, where products count. Exact patching costs (L + 1) / 2 L
# of whole passes in L blocks, so that its goal is meant for many.
NARROW = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.05,
}
WIDE = {**NARROW, "hidden_size": 768, "intermediate_size": 2_112, "num_hidden_layers": 6}


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure both models."""
    return [*measured(NARROW, rounds, patching=True), *measured(WIDE, rounds, patching=False)]


def measured(shape: dict[str, float], rounds: int, patching: bool) -> list[dict[str, object]]:
    """Measure one feature of the last block; exact patching of all heads only if asked for."""
    from vlmdiff.data.samples import load_samples
    from vlmdiff.heads.attribution import attribute, walk_back
    from vlmdiff.heads.corruption import clean_and_corrupt, mean_image
    from vlmdiff.heads.head_values import head_values
    from vlmdiff.heads.patching import patch_exactly
    from vlmdiff.models.registry import load_subject

    with tempfile.TemporaryDirectory() as folder:
        path = build_tiny_vlm(Path(folder) / "vlm", **shape)
        samples = load_samples(build_tiny_dataset(Path(folder) / "data", SAMPLES) / "samples.jsonl")
        subject = load_subject("vlm", {"family": "llava"}, path)
        mean = mean_image(subject, samples, BATCH_TOKENS)
        runs = clean_and_corrupt(subject, samples, mean, BATCH_TOKENS)
    last = subject.n_layers - 1
    direction = torch.nn.functional.normalize(torch.randn(subject.d_model), dim=0)

    @torch.no_grad()
    def forward() -> None:
        for run in runs:
            subject.residuals(run.batch, [last], embeds=run.clean)

    def method_a() -> None:
        for run in runs:
            head_values(subject, run.corrupt_batch, range(last + 1), run.corrupt)
            walk_back(subject, run, run.batch, run.clean, last, [direction], lambda *_: None)

    contestants = {
        "forward": forward,
        "method A": method_a,
        "attribute": lambda: attribute(subject, runs, last, [direction]),
    }
    if patching:
        contestants["patch"] = lambda: patch_exactly(subject, runs, {(last, 0): direction})
    times = measure(contestants, rounds)
    size = f"{SAMPLES} samples, {subject.n_layers} blocks x {subject.n_heads} heads x {subject.d_model}"
    one_forward = times["forward"]
    ratios = [
        (
            "attribution",
            "method A (two runs, one backward) / forward",
            times["method A"] / one_forward,
            Goal(most=3.3),
        ),
        ("attribution", "methods A, B and signed / forward", times["attribute"] / one_forward, Goal()),
    ]
    if patching:
        whole = (subject.n_layers * subject.n_heads + 2) * one_forward
        exact = times["patch"] / whole
        ratios.append(("exact patching", "all heads / (heads + 2) forwards", exact, Goal(most=0.55)))
    return [ratio_row(what, size, name, values, goal) for what, name, values, goal in ratios]

"""Attribution and exact patching in forward passes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tiny_models import build_tiny_dataset, build_tiny_vlm

from benchmarks.harness import Goal, measure, ratio_row

SAMPLES, BATCH_TOKENS = 32, 2_048
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "initializer_range": 0.05,
}


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure one feature of the last block."""
    from vlmdiff.data.samples import load_samples
    from vlmdiff.heads.activity import head_values
    from vlmdiff.heads.attribution import attribute, walk_back
    from vlmdiff.heads.corruption import clean_and_corrupt, mean_image
    from vlmdiff.heads.patching import patch_exactly
    from vlmdiff.models.registry import load_subject

    with tempfile.TemporaryDirectory() as folder:
        path = build_tiny_vlm(Path(folder) / "vlm", **SHAPE)
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

    times = measure(
        {
            "forward": forward,
            "method A": method_a,
            "attribute": lambda: attribute(subject, runs, last, [direction]),
            "patch": lambda: patch_exactly(subject, runs, {(last, 0): direction}),
        },
        rounds,
    )
    size, one_forward = f"{SAMPLES} samples, 16 blocks x 4 heads x 256", times["forward"]
    whole = (subject.n_layers * subject.n_heads + 2) * one_forward
    ratios = (
        (
            "attribution",
            "method A (two runs, one backward) / forward",
            times["method A"] / one_forward,
            Goal(most=3.3),
        ),
        ("attribution", "methods A, B and signed / forward", times["attribute"] / one_forward, Goal()),
        ("exact patching", "all heads / (heads + 2) forwards", times["patch"] / whole, Goal(most=0.55)),
    )
    return [ratio_row(what, size, name, values, goal) for what, name, values, goal in ratios]

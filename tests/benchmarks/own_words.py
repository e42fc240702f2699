"""A model's own words where tokens that all prompts share run once, beside all tokens at each word."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from tiny_models import build_tiny_dataset, build_tiny_vlm

from benchmarks.harness import Goal, measure, ratio_row
from benchmarks.patching import NARROW, WIDE

SAMPLES, BATCH_TOKENS, WORDS = 16, 2_048, 8


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure both models of the patching benchmark."""
    from vlmdiff.data.batching import prepare_batches
    from vlmdiff.data.samples import load_samples
    from vlmdiff.models import describe as module
    from vlmdiff.models.registry import load_subject

    found = []
    for shape in (NARROW, WIDE):
        with tempfile.TemporaryDirectory() as folder:
            path = build_tiny_vlm(Path(folder) / "vlm", **shape)
            samples = load_samples(build_tiny_dataset(Path(folder) / "data", SAMPLES) / "samples.jsonl")
            subject = load_subject("vlm", {"family": "llava"}, path)
            batches = [batch for _, batch in prepare_batches(subject, samples, BATCH_TOKENS)]

        def once(subject=subject, batches=batches) -> list[list[list[int]]]:
            return [module.rows_of(module.describe(subject, batch, WORDS, ())) for batch in batches]

        def again(once=once) -> list[list[list[int]]]:
            with patch.object(module, "kept_prefix", lambda *_: None):
                return once()

        assert once() == again(), "other words"
        times = measure({"once": once, "again": again}, rounds)
        size = (
            f"{SAMPLES} samples, {WORDS} words, {shape['num_hidden_layers']} blocks x {shape['hidden_size']}"
        )
        ratio = times["once"] / times["again"]
        found.append(ratio_row("own words", size, "shared tokens once / at each word", ratio, Goal(most=1.0)))
    return found

"""Feature statistics of stored activations beside what it cannot do without: reading, encoder product."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.harness import Goal, measure, ratio_row
from benchmarks.peers import started
from benchmarks.synthetic_shards import TOKENS, write_shards

# (d_model, d_sae, k, samples)
SIZES = ((256, 2048, 16, 1000), (512, 8192, 32, 500), (1024, 16384, 50, 250))


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure all sizes, and the cost of one to four times as many samples."""
    from vlmdiff.activations.store import ActivationStore
    from vlmdiff.features.statistics import collect_statistics

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for d_model, d_sae, k, samples in SIZES:
            store = ActivationStore(write_shards(Path(folder) / str(d_sae), samples, d_model), 0)
            dictionary = started(d_model, d_sae, k).requires_grad_(False)

            @torch.no_grad()
            def limit(store=store, dictionary=dictionary) -> None:
                for chunk in store.chunks(["text"], 1024):
                    torch.addmm(dictionary.b_enc, chunk.values, dictionary.W_enc)

            def ours(store=store, dictionary=dictionary) -> None:
                collect_statistics(store, dictionary, 20, max(64, min(8192, 2**25 // dictionary.d_sae)))

            times = measure({"ours": ours, "limit": limit}, rounds)
            size = f"{samples * TOKENS} tokens, {d_model} x {d_sae}, k {k}"
            ratio = times["limit"] / times["ours"]
            found.append(ratio_row("statistics", size, "(reading + product) / ours", ratio, Goal(least=0.6)))
        found += slope(Path(folder), rounds)
    return found


def slope(folder: Path, rounds: int) -> list[dict[str, object]]:
    """Return the cost per sample at two and four times as many samples."""
    from vlmdiff.activations.store import ActivationStore
    from vlmdiff.features.statistics import collect_statistics

    dictionary = started(256, 2048, 16).requires_grad_(False)
    stores = {n: ActivationStore(write_shards(folder / f"slope_{n}", n, 256), 0) for n in (1000, 2000, 4000)}
    contestants = {
        str(n): lambda store=store: collect_statistics(store, dictionary, 20, 8192)
        for n, store in stores.items()
    }
    times = measure(contestants, rounds)
    return [
        ratio_row(
            "statistics", "256 x 2048, k 16", f"cost of a sample at {n} / at 1000",
            times[str(n)] / times["1000"] / (n / 1000), Goal(most=1.15),
        )
        for n in (2000, 4000)
    ]  # fmt: skip

"""Scoring dictionaries by their active pairs beside dense activations and a dense decoder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.harness import Goal, measure, ratio_row
from benchmarks.peers import started
from benchmarks.statistics_pass import SIZES
from benchmarks.synthetic_shards import TOKENS, write_shards


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure all sizes of the statistics pass."""
    from vlmdiff.activations.store import ActivationStore
    from vlmdiff.dictionaries.evaluation import CHUNK_VALUES, Score, score_dictionaries

    found = []
    for d_model, d_sae, k, samples in SIZES:
        dictionary = started(d_model, d_sae, k).requires_grad_(False)
        chunk = max(256, CHUNK_VALUES["cpu"] // d_sae)
        with tempfile.TemporaryDirectory() as folder:
            store = ActivationStore(write_shards(Path(folder), samples, d_model), 0)

            @torch.no_grad()
            def dense(store=store, dictionary=dictionary, chunk=chunk) -> None:
                for part in store.chunks(["text"], chunk):
                    activations = dictionary.encode(part.values)
                    x_hat = torch.addmm(dictionary.b_dec, activations, dictionary.W_dec)
                    firing = activations.nonzero()[:, 1]
                    Score.of(part.values, dictionary.b_dec, x_hat, firing, dictionary.d_sae)

            def pairs(store=store, dictionary=dictionary) -> None:
                score_dictionaries(store, {100: dictionary}, ["text"])

            times = measure({"pairs": pairs, "dense": dense}, rounds)
        size = f"{samples * TOKENS} tokens, {d_model} x {d_sae}, k {k}"
        found.append(
            ratio_row("scoring", size, "by pairs / dense", times["pairs"] / times["dense"], Goal(most=1.0))
        )
    return found

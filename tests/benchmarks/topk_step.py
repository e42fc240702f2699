"""A TopK training step in exact float32 beside other libraries, and beside the encoder's product alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import Goal, measure, ratio_row
from benchmarks.peers import dictionary_learning_step, our_step, plain_step, saelens_step, sparsify_step

# (d_model, d_sae, k, batch)
SIZES = ((256, 2048, 16, 2048), (512, 8192, 32, 1024), (1024, 16384, 50, 512))
BATCHES = 4
GOALS = {
    "SAELens default": Goal(least=4, aim=">= 6"),
    "SAELens best": Goal(),
    "sparsify (Adam)": Goal(least=1.2, aim=">= 1.6"),
    "dictionary_learning": Goal(),
    "plain dense": Goal(),
}


def data(d_model: int, batch: int) -> list[torch.Tensor]:
    """Return batches with a few strong directions, so that activations are not pure noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4 * d_model, d_model, generator=generator)
    mix = torch.rand(BATCHES, batch, 4 * d_model, generator=generator).pow(12)
    return list(
        mix @ directions / d_model**0.5 + 0.1 * torch.randn(BATCHES, batch, d_model, generator=generator)
    )


def over(batches: list[torch.Tensor], step: Callable[[torch.Tensor], object]) -> Callable[[], None]:
    """Return the work of one round: one step on each batch."""

    def work() -> None:
        for x in batches:
            step(x)

    return work


def product(batches: list[torch.Tensor], d_model: int, d_sae: int) -> Callable[[], None]:
    """Return the encoder's product alone, the one dense product that exact TopK needs."""
    W_enc, b_enc = torch.randn(d_model, d_sae), torch.randn(d_sae)
    out = torch.empty(len(batches[0]), d_sae)

    def work() -> None:
        for x in batches:
            torch.addmm(b_enc, x, W_enc, out=out)

    return work


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure all sizes."""
    found = []
    for d_model, d_sae, k, batch in SIZES:
        batches, shape = data(d_model, batch), (d_model, d_sae, k)
        steps = {
            "ours": our_step(*shape),
            "SAELens default": saelens_step("topk", *shape, batch),
            "SAELens best": saelens_step(
                "topk", *shape, batch, rescale_acts_by_decoder_norm=False, fused_adam=True
            ),
            "sparsify (Adam)": sparsify_step(*shape),
            "dictionary_learning": dictionary_learning_step(*shape),
            "plain dense": plain_step(*shape),
        }
        contestants = {name: over(batches, step) for name, step in steps.items()}
        contestants["encoder product"] = product(batches, d_model, d_sae)
        times = measure(contestants, rounds)
        size = f"{d_model} x {d_sae}, k {k}, batch {batch}"
        for name, goal in GOALS.items():
            found.append(ratio_row("TopK step", size, f"{name} / ours", times[name] / times["ours"], goal))
        limit = times["encoder product"] / times["ours"]
        found.append(
            ratio_row("TopK step", size, "encoder product / ours", limit, Goal(least=0.5, aim=">= 0.75"))
        )
    return found

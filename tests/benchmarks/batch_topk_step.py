"""A BatchTopK training step in exact float32 beside other libraries, and beside a TopK step of ours."""

from __future__ import annotations

from benchmarks.harness import Goal, measure, ratio_row
from benchmarks.peers import dictionary_learning_step, our_step, saelens_step
from benchmarks.topk_step import data, over

# (d_model, d_sae, k, batch)
SIZES = ((256, 2048, 16, 2048), (512, 8192, 32, 1024))
GOALS = {"SAELens": Goal(least=2), "dictionary_learning": Goal(), "TopK step of ours": Goal(least=0.5)}


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure all sizes."""
    found = []
    for d_model, d_sae, k, batch in SIZES:
        batches, shape = data(d_model, batch), (d_model, d_sae, k)
        steps = {
            "ours": our_step(*shape, "batch_topk"),
            "SAELens": saelens_step("batchtopk", *shape, batch),
            "dictionary_learning": dictionary_learning_step(*shape, "batch_topk"),
            "TopK step of ours": our_step(*shape),
        }
        times = measure({name: over(batches, step) for name, step in steps.items()}, rounds)
        size = f"{d_model} x {d_sae}, k {k}, batch {batch}"
        for name, goal in GOALS.items():
            found.append(
                ratio_row("BatchTopK step", size, f"{name} / ours", times[name] / times["ours"], goal)
            )
    return found

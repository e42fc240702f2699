"""A JumpReLU training step in float32 beside SAELens' own trainer."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Goal, measure, ratio_row
from benchmarks.peers import Step, saelens_step
from benchmarks.topk_step import data, over, product

SIZES = ((256, 2048, 16, 2048), (512, 8192, 32, 1024))


def our_jumprelu(d_model: int, d_sae: int, k: int, sample: Tensor) -> Step:
    """Return one step as the rule `train_dictionary` takes it, thresholds started at an L0 of `k`."""
    from vlmdiff.dictionaries.initial import common_threshold
    from vlmdiff.dictionaries.loss import fraction_unexplained
    from vlmdiff.dictionaries.modules import JumpReLUDictionary
    from vlmdiff.dictionaries.optimiser import DictionaryAdam

    dictionary = JumpReLUDictionary(d_model, d_sae)
    with torch.no_grad():
        dictionary.W_dec.normal_()
        dictionary.normalise_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec.T)
        dictionary.log_threshold.fill_(common_threshold(dictionary, sample, k).log())
    adam = DictionaryAdam(dictionary, 7e-5, betas=(0.0, 0.999))

    def closure(x: Tensor) -> Tensor:
        adam.zero_grad()
        result = dictionary.reconstruct(x)
        loss = fraction_unexplained(x, result.x_hat) + (result.l0 / k - 1).square()
        loss.backward()
        return loss

    return lambda x: adam.step(lambda: closure(x))


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure all sizes."""
    found = []
    for d_model, d_sae, k, batch in SIZES:
        batches = data(d_model, batch)
        steps = {
            "ours": our_jumprelu(d_model, d_sae, k, batches[0]),
            "SAELens": saelens_step("jumprelu", d_model, d_sae, k, batch),
        }
        contestants = {name: over(batches, step) for name, step in steps.items()}
        contestants["encoder product"] = product(batches, d_model, d_sae)
        times = measure(contestants, rounds)
        size = f"{d_model} x {d_sae}, L0 {k}, batch {batch}"
        goal = Goal(least=2)
        found.append(
            ratio_row("JumpReLU step", size, "SAELens / ours", times["SAELens"] / times["ours"], goal)
        )
        limit = times["encoder product"] / times["ours"]
        found.append(ratio_row("JumpReLU step", size, "encoder product / ours", limit))
    return found

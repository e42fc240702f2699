"""A training step beside dense PyTorch and beside the encoder's product alone, with peak memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from benchmarks.harness import measure
from benchmarks.jumprelu_step import our_jumprelu
from benchmarks.peers import our_step, plain_step
from outcome import Row, Setting
from torch import Tensor

NAME = "step_times"
# (d_model, d_sae, k, batch): LLaVA-MORE with Llama Scope, PaliGemma 2 with Gemma Scope.
TOPK = ((4096, 32768, 50, 4096), (4096, 32768, 50, 8192))
JUMPRELU = ((2304, 16384, 50, 8192),)
SMALL = ((64, 256, 4, 128),)
STEPS, ROUNDS = 3, 5


def rows(setting: Setting) -> list[Row]:
    """Measure all sizes of both kinds."""
    found = []
    for kind, sizes in (("topk", TOPK), ("jumprelu", JUMPRELU)):
        for size in SMALL if setting.small else sizes:
            found += one_size(kind, size, setting)
            if setting.device == "cuda":
                torch.cuda.empty_cache()
    return found


def one_size(kind: str, size: tuple[int, int, int, int], setting: Setting) -> list[Row]:
    """Return medians of milliseconds, their ratios within rounds, and peak memory."""
    d_model, d_sae, k, batch = size
    with torch.device(setting.device):
        x = torch.randn(batch, d_model)
        steps = contestants(kind, d_model, d_sae, k, x)
        works = {name: setting.timed(repeated(step, x)) for name, step in steps.items()}
        times = measure(works, ROUNDS, warmup=2)
        peaks = {name: setting.peak_gib(lambda step=step: step(x)) for name, step in steps.items()}
    label = f"{kind} {d_model} x {d_sae}, k {k}, batch {batch}"
    found = []
    for name in steps:
        found.append(Row(NAME, label, f"{name}: ms a step", float(times[name].median()) / STEPS * 1e3))
        found.append(Row(NAME, label, f"{name}: peak GiB", peaks[name], "all contestants' weights included"))
        if name != "ours":
            ratio = float((times[name] / times["ours"]).median())
            found.append(Row(NAME, label, f"{name} / ours", ratio, "median of ratios within rounds"))
    tokens = batch * STEPS / float(times["ours"].median())
    return [*found, Row(NAME, label, "ours: tokens a second", tokens)]


def repeated(step: Callable[[Tensor], object], x: Tensor) -> Callable[[], None]:
    """Return the work of one round."""

    def work() -> None:
        for _ in range(STEPS):
            step(x)

    return work


def contestants(
    kind: str, d_model: int, d_sae: int, k: int, x: Tensor
) -> Mapping[str, Callable[[Tensor], object]]:
    """Return our step, a dense one by autograd, and the encoder's product."""
    W_enc, b_enc = torch.randn(d_model, d_sae), torch.randn(d_sae)
    out = torch.empty(len(x), d_sae)
    product = {"encoder product": lambda x: torch.addmm(b_enc, x, W_enc, out=out)}
    if kind == "topk":
        steps = {"ours": our_step(d_model, d_sae, k), "dense PyTorch": plain_step(d_model, d_sae, k)}
    else:
        steps = {"ours": our_jumprelu(d_model, d_sae, k, x)}
    return steps | product

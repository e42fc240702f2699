"""A training step next to other libraries', dense PyTorch and the encoder's product, with peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from benchmarks.harness import measure
from benchmarks.jumprelu_step import our_jumprelu
from benchmarks.peers import our_step, plain_step, saelens_step, sparsify_step
from outcomes import Row, Setting
from torch import Tensor

from vlmdiff.dictionaries.loops import DEVICE_LOOPS

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
    for limit in ("tf32", "bf16"):
        share = float((times[f"encoder product in {limit}"] / times["ours"]).median())
        found.append(Row(NAME, label, f"{limit} product of our step", share, "wanted: half"))
    return [*found, Row(NAME, label, "ours: tokens a second", tokens)]


def repeated(step: Callable[[Tensor], object], x: Tensor) -> Callable[[], None]:
    """Return the work of one round."""

    def work() -> None:
        for _ in range(STEPS):
            step(x)

    return work


Step = Callable[[Tensor], object]


def contestants(kind: str, d_model: int, d_sae: int, k: int, x: Tensor) -> Mapping[str, Step]:
    """Return our step in each precision and by torch alone, those of others, and the product."""
    W_enc, b_enc = torch.randn(d_model, d_sae), torch.randn(d_sae)
    out = torch.empty(len(x), d_sae)

    def product(x: Tensor) -> object:
        return torch.addmm(b_enc, x, W_enc, out=out)

    def made() -> Step:
        return our_step(d_model, d_sae, k) if kind == "topk" else our_jumprelu(d_model, d_sae, k, x)

    with torch_alone():
        by_torch = made()
    steps = {
        "ours": in_tf32(made()),
        "ours in float32": made(),
        "ours by torch's operations": in_tf32(without_loops(by_torch)),
        "encoder product in tf32": in_tf32(product),
        "encoder product in float32": product,
        "encoder product in bf16": in_bf16(W_enc),
    }
    if kind == "topk":
        steps |= {
            "ours, candidates in bf16": in_tf32(our_step(d_model, d_sae, k, precision="bf16")),
            "dense PyTorch": in_tf32(plain_step(d_model, d_sae, k)),
        }
    return steps | peers(kind, d_model, d_sae, k, len(x))


def peers(kind: str, d_model: int, d_sae: int, k: int, batch: int) -> dict[str, Step]:
    """Return the steps of other libraries that are installed, in tf32."""
    found: dict[str, Step] = {}
    with suppress(ImportError):
        found["SAELens"] = in_tf32(saelens_step(kind, d_model, d_sae, k, batch))
    if kind == "topk":
        with suppress(ImportError):
            found["sparsify (Adam)"] = in_tf32(sparsify_step(d_model, d_sae, k))
    return found


def in_tf32(step: Step) -> Step:
    """Let a GPU's products round their factors to tf32, as trainings do by default."""

    def whole(x: Tensor) -> object:
        torch.set_float32_matmul_precision("high")
        try:
            return step(x)
        finally:
            torch.set_float32_matmul_precision("highest")

    return whole


def in_bf16(W_enc: Tensor) -> Step:
    """Return the encoder's product of factors that are in bfloat16 already."""
    narrow, kept = W_enc.bfloat16(), {}

    def product(x: Tensor) -> object:
        if "x" not in kept:
            kept["x"] = x.bfloat16()
        return torch.mm(kept["x"], narrow)

    return product


@contextmanager
def torch_alone() -> Iterator[None]:
    """Leave Triton's loops out."""
    loops, DEVICE_LOOPS.module = DEVICE_LOOPS.module, None
    try:
        yield
    finally:
        DEVICE_LOOPS.module = loops


def without_loops(step: Step) -> Step:
    """Take a step by torch's operations."""

    def whole(x: Tensor) -> object:
        with torch_alone():
            return step(x)

    return whole

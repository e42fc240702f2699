"""Dead features and FVU of TopK dictionaries that start at random, beside other libraries, on a real model.

`python -m benchmarks.dead_features SOURCES`, where SOURCES is what `tests/real/prepare.py` wrote:
SmolLM2-135M and English text. Every contestant sees the same batches of the same residuals, in the same units
(our `input_scale`), takes the same number of steps with the same peak rate, and starts with the mean of the
first tokens as `b_dec`; features are dead for all after the same number of silent tokens. Initial weights,
loss, schedule after the warm-up and auxiliary loss are each library's own. One evaluator, dense and plain,
scores all of them on held-out text.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.peers import hide_torchvision, quietly

K, BATCH, STEPS, WARMUP = 32, 512, 200, 0.05
BLOCKS = (8, 20)
LONGEST = 256  # tokens of a paragraph
TOKENS = {"train": 32_768, "held_out": 8_192}
SILENT = BATCH * STEPS // 10  # tokens without a firing after which a feature is dead, for every contestant
SAMPLE = 16_384

# Encoder (d_model, d_sae), its bias, decoder (d_sae, d_model), its bias
Weights = tuple[Tensor, Tensor, Tensor, Tensor]


class Setting(NamedTuple):
    """What all contestants share: features, peak learning rate, seed."""

    d_sae: int
    rate: float
    seed: int


@torch.no_grad()
def residuals(sources: Path, part: str) -> dict[int, Tensor]:
    """Return the outputs of the blocks on a part of the text, without the first token of each paragraph.

    Paragraphs are taken from all over the text. They are kept beside the sources: they take minutes.
    """
    kept = sources / f"residuals_{part}.pt"
    if kept.is_file():
        return torch.load(kept)
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (one.from_pretrained(sources / "smollm2") for one in (AutoModel, AutoTokenizer))
    model.layers, seen = model.layers[: max(BLOCKS) + 1], {}
    for block in BLOCKS:
        model.layers[block].register_forward_hook(
            lambda _, __, output, block=block: seen.update({block: output})
        )
    lines = (sources / "text" / f"{part}.jsonl").read_text().splitlines()
    found: dict[int, list[Tensor]] = {block: [] for block in BLOCKS}
    for line in lines[:: max(1, 120 * len(lines) // TOKENS[part])]:
        ids = tokenizer(json.loads(line)["text"], return_tensors="pt").input_ids[:, :LONGEST]
        model(ids, use_cache=False)
        for block, rows in found.items():
            # The first token is the attention sink: eighty times the norm of any other.
            rows.append(seen[block].reshape(ids.shape[1], -1)[1:].half())
        if sum(map(len, rows)) >= TOKENS[part]:
            break
    whole = {block: torch.cat(rows)[: TOKENS[part]] for block, rows in found.items()}
    torch.save(whole, kept)
    return whole


def batches(x: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield shuffled batches, epoch after epoch; the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(1 + STEPS * BATCH // len(x)):
        yield from (
            x[rows] for rows in torch.randperm(len(x), generator=generator).split(BATCH) if len(rows) == BATCH
        )


def ours(x: Tensor, setting: Setting, auxk_coefficient: float | None = None) -> Weights:
    """Train as the rule `train_dictionary` does, Lightning's loop aside."""
    from vlmdiff.dictionaries.initial import random_start
    from vlmdiff.dictionaries.recipe import Recipe
    from vlmdiff.dictionaries.task import DictionaryTask

    shape = {"kind": "topk", "d_sae": setting.d_sae, "k": K, "bandwidth": 1.0, "l0_coefficient": 0.0}
    stage = {
        "tokens": ["text"],
        "steps": STEPS,
        "batch_tokens": BATCH,
        "learning_rate": setting.rate,
        "warmup": WARMUP,
    }
    stage |= {"snapshots": [], "auxk_coefficient": auxk_coefficient, "dead_after_tokens": SILENT}
    recipe = Recipe.from_params({**shape, "subtract_decoder_bias": True}, stage)
    task = DictionaryTask(random_start(recipe, x[:SAMPLE], setting.seed), recipe, 1.0)
    found = task.configure_optimizers()
    adam, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    for number, batch in zip(range(STEPS), batches(x, setting.seed)):
        adam.zero_grad()
        task.training_step(batch, number)["loss"].backward()
        adam.step()
        schedule.step()
    one = task.dictionary
    return one.W_enc, one.b_enc, one.W_dec, one.b_dec


def without_auxiliary_loss(x: Tensor, setting: Setting) -> Weights:
    """Train ours as it was before."""
    return ours(x, setting, auxk_coefficient=0.0)


def saelens(x: Tensor, setting: Setting, **settings: object) -> Weights:
    """Train by SAELens' own trainer, with its cosine."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(setting.seed)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=setting.d_sae, k=K, **settings))
    sae.b_dec.data = x[:SAMPLE].mean(dim=0)
    config = SAETrainerConfig(
        total_training_samples=BATCH * STEPS, train_batch_size_samples=BATCH, lr=setting.rate, lr_end=0.0,
        lr_scheduler_name="cosineannealing", lr_warm_up_steps=round(WARMUP * STEPS),
        dead_feature_window=SILENT // BATCH, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    for _, batch in zip(range(STEPS), batches(x, setting.seed)):
        trainer.step(batch)
        trainer.n_training_steps += 1
    norms = sae.W_dec.norm(dim=1) if sae.cfg.rescale_acts_by_decoder_norm else torch.ones(setting.d_sae)
    return sae.W_enc * norms, sae.b_enc * norms, sae.W_dec / norms[:, None], sae.b_dec


def saelens_unit_rows(x: Tensor, setting: Setting) -> Weights:
    """Train SAELens from rows of unit norm, as the others start."""
    return saelens(x, setting, decoder_init_norm=1.0)


def sparsify(x: Tensor, setting: Setting) -> Weights:
    """Do what sparsify's trainer does each step with Adam, its warm-up and its linear decay."""
    hide_torchvision()
    quietly("sparsify")
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(setting.seed)
    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=setting.d_sae, k=K))
    coder.b_dec.data = x[:SAMPLE].mean(dim=0)
    adam = torch.optim.Adam(coder.parameters(), lr=setting.rate)
    schedule = get_linear_schedule_with_warmup(adam, round(WARMUP * STEPS), STEPS)
    silent = torch.zeros(setting.d_sae, dtype=torch.int64)
    for _, batch in zip(range(STEPS), batches(x, setting.seed)):
        adam.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        found = coder(batch, dead_mask=silent > SILENT)
        (found.fvu + found.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        schedule.step()
        silent += BATCH
        silent[found.latent_indices.flatten()] = 0
    return coder.encoder.weight.T, coder.encoder.bias, coder.W_dec, coder.b_dec


CONTESTANTS: dict[str, Callable[[Tensor, Setting], Weights]] = {
    "ours": ours,
    "ours, no auxiliary loss": without_auxiliary_loss,
    "SAELens": saelens,
    "SAELens, unit rows": saelens_unit_rows,
    "sparsify": sparsify,
}


@torch.no_grad()
def score(weights: Weights, x: Tensor) -> tuple[float, int]:
    """Return the FVU about the mean of held-out tokens, and how many features fire on none of them."""
    W_enc, b_enc, W_dec, b_dec = weights
    pre = (x - b_dec) @ W_enc + b_enc
    top = pre.topk(K, dim=1)
    z = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    errors = (x - z @ W_dec - b_dec).double().square().sum()
    variance = (x - x.mean(dim=0)).double().square().sum()
    return float(errors / variance), int((z > 0).any(dim=0).logical_not().sum())


def main() -> None:
    """Train and score all contestants, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dead_features", description=__doc__)
    parser.add_argument("sources", type=Path, help="folder that tests/real/prepare.py wrote")
    parser.add_argument("--blocks", type=int, nargs="+", choices=BLOCKS, default=BLOCKS)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--d-sae", type=int, default=1728)
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    setting = Setting(chosen.d_sae, chosen.rate, chosen.seed)
    from vlmdiff.dictionaries.initial import estimate_scale

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    train, held_out = (residuals(chosen.sources, part) for part in TOKENS)
    print(f"{setting}, k {K}, {STEPS} steps of {BATCH} tokens")
    for block in chosen.blocks:
        scale = estimate_scale(train[block][:SAMPLE].float())
        x, y = train[block].float() * scale, held_out[block].float() * scale
        for name in chosen.only:
            started = time.process_time()
            fvu, dead = score(CONTESTANTS[name](x, setting), y)
            seconds = time.process_time() - started
            print(
                f"block {block:2}  {name:24} FVU {fvu:.4f}  dead {dead:5}  {seconds:4.0f} CPU s", flush=True
            )


if __name__ == "__main__":
    main()

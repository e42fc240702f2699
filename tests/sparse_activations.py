"""Synthetic residuals that really are sparse combinations of known directions, as shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard


def sparse_residuals(
    tokens: int, d_model: int, features: int, active: int, seed: int, scale: float = 1.0
) -> np.ndarray:
    """Return `scale * (mean + sum of a few positive unit directions + a little noise)`, float32."""
    world = np.random.default_rng(7)
    directions = world.normal(size=(features, d_model))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mean = world.normal(size=d_model)
    rng = np.random.default_rng(seed)
    # Frequencies fall off like real features' do.
    frequency = 1 / (np.arange(features) + 10)
    frequency *= active / frequency.sum()
    z = rng.uniform(0.5, 1.5, (tokens, features)) * (rng.random((tokens, features)) < frequency)
    noise = 0.02 * rng.normal(size=(tokens, d_model))
    return (scale * (mean + z @ directions + noise)).astype(np.float32)


def write_sparse_shards(
    folder: Path,
    tokens: int = 4000,
    d_model: int = 16,
    features: int = 32,
    active: int = 3,
    layers: tuple[int, ...] = (0, 1),
    blocks: int = 2,
    seed: int = 0,
    scale: float = 1.0,
    image: bool = True,
) -> list[Path]:
    """Write shards whose samples have 8 image tokens (if `image`) and 12 text tokens."""
    paths = []
    for block in range(blocks):
        samples = tokens // blocks // 20
        count = samples * 20
        kind = np.tile(np.repeat([IMAGE if image else TEXT, TEXT], [8, 12]), samples).astype(np.uint8)
        residual = {
            layer: sparse_residuals(
                count, d_model, features, active, 1000 * seed + 10 * layer + block, scale
            ).astype(np.float16)
            for layer in layers
        }
        content = ShardContent(
            residual=residual,
            token_id=np.zeros(count, np.int32),
            position=np.tile(np.arange(20), samples).astype(np.int32),
            token_type=kind,
            offsets=np.arange(samples + 1, dtype=np.int64) * 20,
            sample_id=[f"s{block}_{i}" for i in range(samples)],
            group=["g"] * samples,
        )
        header = ShardHeader(
            model="model",
            dataset="data",
            model_fingerprint="m",
            dataset_fingerprint=f"d{seed}",
            block=block,
            d_model=d_model,
            layers=layers,
            dtype="float16",
        )
        path = folder / f"shard_{block}.h5"
        write_shard(path, content, header)
        paths.append(path)
    return paths

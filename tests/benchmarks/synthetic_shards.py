"""Shards of random residuals in any number of samples, for what streams over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TOKENS = 32


def write_shards(folder: Path, samples: int, d_model: int, shard_samples: int = 500) -> list[Path]:
    """Write shards of one layer, `TOKENS` text tokens a sample, in a few groups."""
    from vlmdiff.activations.format import ShardContent, ShardHeader
    from vlmdiff.activations.tokens import TEXT
    from vlmdiff.activations.writer import write_shard

    rng, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for block, start in enumerate(range(0, samples, shard_samples)):
        count = min(shard_samples, samples - start)
        tokens = count * TOKENS
        content = ShardContent(
            {0: rng.standard_normal((tokens, d_model), dtype=np.float32).astype(np.float16)},
            np.zeros(tokens, np.int32),
            np.tile(np.arange(TOKENS, dtype=np.int32), count),
            np.full(tokens, TEXT, np.uint8),
            np.arange(0, tokens + 1, TOKENS),
            [f"sample_{start + i}" for i in range(count)],
            [f"group_{i % 5}" for i in range(count)],
        )
        header = ShardHeader("m", "d", "1", "2", block, d_model, (0,), "float16", ("text",))
        paths.append(folder / f"block_{block}.h5")
        write_shard(paths[-1], content, header)
    return paths

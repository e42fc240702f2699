"""Two models shown the same samples, as shards with known features: shared ones, and some of one alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard

TEXT_TOKENS, IMAGE_TOKENS = 12, 4


@dataclass(frozen=True)
class Planted:
    """Two residual streams of the same features.

    Attributes:
        base, tuned: (features, d_model) the direction of each feature in both models, in units of strength.
    """

    base: np.ndarray
    tuned: np.ndarray

    def residuals(self, tokens: int, seed: int, active: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        """Return both streams (tokens, d_model) of tokens on which each feature is active now and then."""
        rng = np.random.default_rng(seed)
        z = rng.uniform(0.5, 1.5, (tokens, len(self.base))) * (rng.random((tokens, len(self.base))) < active)
        return tuple(
            (z @ directions + 0.01 * rng.normal(size=(tokens, directions.shape[1]))).astype(np.float32)
            for directions in (self.base, self.tuned)
        )


def planted(d_model: int = 24, features: int = 16, exclusive: int = 4, seed: int = 0) -> Planted:
    """Return features of which the last `exclusive` are the tuned model's alone and the others shared."""
    base = np.linalg.qr(np.random.default_rng(seed).normal(size=(d_model, d_model)))[0][:features]
    tuned = base.copy()
    base[features - exclusive :] = 0
    return Planted(base, tuned)


def write_pair(
    folder: Path, streams: Planted, tokens: int = 6000, blocks: tuple[int, int] = (2, 3), seed: int = 1
) -> tuple[list[Path], list[Path]]:
    """Write both models' shards, those of the tuned one with image tokens before the text."""
    samples = tokens // TEXT_TOKENS
    both = streams.residuals(samples * TEXT_TOKENS, seed)
    ids = np.random.default_rng(seed).integers(5, 60, samples * TEXT_TOKENS).astype(np.int32)
    return tuple(
        write_series(folder / name, name, values, ids, samples, count, name == "vlm")
        for name, values, count in zip(("base_lm", "vlm"), both, blocks, strict=True)
    )


def write_series(
    folder: Path, model: str, values: np.ndarray, ids: np.ndarray, samples: int, blocks: int, sees: bool
) -> list[Path]:
    """Write one model's shards; what it sees is four tokens of noise before each text."""
    before = IMAGE_TOKENS if sees else 0
    rng, d_model, paths = np.random.default_rng(9), values.shape[1], []
    for block, members in enumerate(np.array_split(np.arange(samples), blocks)):
        parts, tokens, types = [], [], []
        for sample in members:
            text = slice(sample * TEXT_TOKENS, (sample + 1) * TEXT_TOKENS)
            parts += [rng.normal(size=(before, d_model)), values[text]]
            tokens += [np.full(before, 3, np.int32), ids[text]]
            types += [np.full(before, IMAGE, np.uint8), np.full(TEXT_TOKENS, TEXT, np.uint8)]
        length = before + TEXT_TOKENS
        content = ShardContent(
            residual={0: np.concatenate(parts).astype(np.float16)},
            token_id=np.concatenate(tokens),
            position=np.tile(np.arange(length), len(members)).astype(np.int32),
            token_type=np.concatenate(types),
            offsets=np.arange(len(members) + 1, dtype=np.int64) * length,
            sample_id=[f"s{sample}" for sample in members],
            group=["g"] * len(members),
        )
        header = ShardHeader(model, "data", model, "d", block, d_model, (0,), "float16")
        paths.append(folder / f"shard_{block}.h5")
        write_shard(paths[-1], content, header)
    return paths

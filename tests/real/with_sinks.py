"""Train a dictionary with first and massive tokens in its data, and one without, and score both.

`python tests/real/with_sinks.py [STEPS]`: SmolLM2, block 20, TopK 32 of 2,304 features, 48 words a document.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.tokens import TEXT
from vlmdiff.activations.writer import write_shard
from vlmdiff.dictionaries.evaluation import score_dictionaries
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.models.registry import load_subject
from vlmdiff.models.subject import Subject

SOURCES = Path(__file__).parents[2] / "results" / "real_sources"
LAYER, WORDS, RATIO = 20, 48, 10.0
ARCHITECTURE = {
    "kind": "topk", "d_sae": 2304, "k": 32, "bandwidth": 0.02, "l0_coefficient": 1.0,
    "subtract_decoder_bias": True,
}  # fmt: skip
STAGE = {
    "tokens": ["text"], "batch_tokens": 512, "learning_rate": 1e-3, "warmup": 0.1, "snapshots": [],
}  # fmt: skip


@torch.inference_mode()
def documents(subject: Subject, name: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return residuals (tokens, d_model) of each document, first token included, and massive tokens."""
    rows = [
        json.loads(line)["text"] for line in (SOURCES / "text" / f"{name}.jsonl").read_text().splitlines()
    ]
    found = []
    for row in rows[:: len(rows) // count][:count]:
        batch = subject.prepare([" ".join(row.split()[:WORDS])], [None], False)
        values = subject.residuals(batch, [LAYER])[LAYER][0].numpy()
        norms = np.linalg.norm(values, axis=1)
        found.append((values, norms > RATIO * np.quantile(norms[1:], 0.5, method="lower")))
    return found


def write(found: list[tuple[np.ndarray, np.ndarray]], path: Path, with_sinks: bool) -> Path:
    """Write a shard of all tokens, or of those that are neither first nor massive."""
    kept = [values if with_sinks else values[1:][~massive[1:]] for values, massive in found]
    residual = np.concatenate(kept).astype(np.float16)
    ones, counts = np.ones(len(residual), np.int32), [len(one) for one in kept]
    content = ShardContent(
        residual={LAYER: residual},
        token_id=ones,
        position=ones,
        token_type=np.full(len(residual), TEXT, np.uint8),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sample_id=[str(i) for i in range(len(kept))],
        group=["text"] * len(kept),
    )
    header = ShardHeader(
        "smollm2", "text", "f", "d", 0, residual.shape[1], (LAYER,), "float16", token_types=("text",)
    )
    write_shard(path, content, header)
    return path


def main(steps: int) -> None:
    """Train on both kinds of data; score each on its own kind of held-out data, and on data without sinks."""
    with_or_without = {True: "with", False: "without"}
    subject = load_subject("smollm2", {"family": "causal_lm"}, SOURCES / "smollm2")
    train, held_out = documents(subject, "train", 400), documents(subject, "held_out", 100)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tested = {sinks: write(held_out, folder / f"test_{sinks}.h5", sinks) for sinks in (True, False)}
        for sinks in (True, False):
            train_dictionary(
                [write(train, folder / f"train_{sinks}.h5", sinks)], "random", LAYER, 0, ARCHITECTURE,
                {**STAGE, "steps": steps}, {}, folder / f"sae_{sinks}", folder / f"work_{sinks}",
            )  # fmt: skip
            dictionary = load_dictionary(folder / f"sae_{sinks}")
            for kind in dict.fromkeys((sinks, False)):
                score = score_dictionaries(ActivationStore([tested[kind]], LAYER), {0: dictionary}, ("text",))
                numbers = score[0]["text"].metrics()
                print(
                    f"trained {with_or_without[sinks]}, tested {with_or_without[kind]} sinks: "
                    f"FVU {numbers['fvu']:.3f}, dead {numbers['dead']} of {dictionary.d_sae}, "
                    f"{numbers['n_tokens']} tokens"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

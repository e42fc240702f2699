"""Print by block how long first and massive tokens are: `python tests/real/sinks.py FOLDER [DOCUMENTS]`.

Computed from transformers' hidden states of held-out paragraphs, without this project's extraction.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = Path(__file__).parents[2] / "results" / "real_sources" / "text" / "held_out.jsonl"
WORDS, RATIO = 100, 10.0


def norms(folder: Path, documents: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the tokens of each document as texts, and their norms after each block (blocks, tokens)."""
    model, tokenizer = (one.from_pretrained(folder) for one in (AutoModelForCausalLM, AutoTokenizer))
    rows = [json.loads(line)["text"] for line in TEXT.read_text().splitlines()]
    for row in rows[:: len(rows) // documents][:documents]:
        inputs = tokenizer(" ".join(row.split()[:WORDS]), return_tensors="pt")
        with torch.inference_mode():
            # No logits: a head of 262,144 words takes longer than all blocks.
            states = model.model(**inputs, output_hidden_states=True).hidden_states
        # The last one is after the final norm.
        found = torch.stack([one[0].norm(dim=-1) for one in states[1:-1]]).numpy()
        yield [repr(tokenizer.decode([token])) for token in inputs.input_ids[0]], found


def main(folder: Path, documents: int) -> None:
    """Print one line a block."""
    found = list(norms(folder, documents))
    print(f"{folder.name}: {documents} documents, {sum(len(tokens) - 1 for tokens, _ in found)} tokens")
    print("block | first | median | first's share of squares | massive | their share of the rest | where")
    for block in range(len(found[0][1])):
        first, median, squares, massive, where = [], [], np.zeros(3), 0, Counter()
        for tokens, lengths in found:
            own = lengths[block][1:]
            usual = np.quantile(own, 0.5, method="lower")
            long = own > RATIO * usual
            first.append(lengths[block][0])
            median.append(usual)
            squares += [first[-1] ** 2, (own**2).sum(), (own[long] ** 2).sum()]
            massive += long.sum()
            where.update((tokens[place + 1], int(place) + 1) for place in np.flatnonzero(long))
        print(
            f"{block} | {np.mean(first):,.0f} | {np.mean(median):,.0f} | "
            f"{squares[0] / squares[:2].sum():.1%} | {massive} | {squares[2] / squares[1]:.1%} | "
            + ", ".join(f"{token} at {place} x {count}" for (token, place), count in where.most_common(3))
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)

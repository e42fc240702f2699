"""What extraction leaves out of the data, where it stands, and how much of the variance it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmdiff.activations.tokens import PADDING, TEXT
from vlmdiff.tables.activations import FIRST, KEPT, LEFT_OUT_PARTS, MASSIVE, MOST
from vlmdiff.tables.io import write_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vlmdiff.models.batch import Batch

STRONGEST = 0.01  # fraction of the kept tokens whose share of the squared norms is told
NO_TOKEN = -1
log = logging.getLogger(__name__)


@dataclass
class Sums:
    """Sums over tokens of one kind at one layer."""

    n_tokens: int = 0
    position_min: int = 2**31
    position_max: int = -1
    norm: float = 0.0
    squares: float = 0.0
    strongest: float = 0.0
    multiple_max: float = 0.0
    vector: np.ndarray | float = 0.0

    def add(self, residual: Tensor, position: Tensor, multiple: Tensor) -> None:
        """Take in residuals (tokens, d_model) with their positions and multiples (tokens,)."""
        values = residual.float()
        norms = torch.linalg.vector_norm(values, dim=-1).double()
        squares = norms.square()
        self.n_tokens += len(norms)
        self.position_min = min(self.position_min, int(position.min()))
        self.position_max = max(self.position_max, int(position.max()))
        self.norm += float(norms.sum())
        self.squares += float(squares.sum())
        self.strongest += float(squares.topk(-(-len(norms) // round(1 / STRONGEST))).values.sum())
        self.multiple_max = max(self.multiple_max, float(multiple.nan_to_num(0.0).max()))
        self.vector = self.vector + values.sum(0).double().cpu().numpy()

    def distance(self, mean: np.ndarray) -> float:
        """Return the sum of squared distances of the tokens from a point."""
        return self.squares - 2 * float(np.dot(self.vector, mean)) + self.n_tokens * float(np.dot(mean, mean))


@dataclass
class LeftOut:
    """Sums by layer, kind, type and token; massive tokens are told apart by their token, others are not."""

    sums: dict[tuple[int, str, str, int], Sums] = field(default_factory=dict)

    def add(
        self, layer: int, residual: Tensor, batch: Batch, multiples: Tensor, kept: Tensor, massive: Tensor
    ) -> None:
        """Take in one layer of a batch.

        Args:
            layer: decoder block.
            residual: (samples, sequence, d_model) its output.
            batch: the prompts.
            multiples: (samples, sequence) their norms in medians (`massive.norm_multiples`).
            kept: (samples, sequence) tokens that are stored as data.
            massive: (samples, sequence) tokens that would be but for their norm.
        """
        device = residual.device
        token_type, token_id = batch.token_type.to(device), batch.input_ids.to(device)
        first = torch.zeros_like(kept)
        first[:, 0] = token_type[:, 0] != PADDING
        groups = [(FIRST, "", NO_TOKEN, first), (KEPT, "", NO_TOKEN, kept)]
        for kind, token in sorted(set(zip(token_type[massive].tolist(), token_id[massive].tolist()))):
            same = massive & (token_type == kind) & (token_id == token)
            groups.append((MASSIVE, "text" if kind == TEXT else "image", token, same))
        for kind, name, token, where in groups:
            if where.any():
                sums = self.sums.setdefault((layer, kind, name, token), Sums())
                sums.add(residual[where], where.nonzero()[:, 1], multiples[where])

    def layers(self) -> list[int]:
        """Return the layers of which anything is known."""
        return sorted({layer for layer, *_ in self.sums})

    def rows(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
        """Yield the rows of contract LEFT_OUT_PARTS."""
        for layer in self.layers():
            kept = self.sums.get((layer, KEPT, "", NO_TOKEN), Sums())
            mean = kept.vector / max(kept.n_tokens, 1)
            for (own, kind, token_type, token), sums in self.sums.items():
                if own == layer:
                    yield {
                        "layer": layer,
                        "kind": kind,
                        "token_type": token_type,
                        "token_id": token,
                        "token": repr(tokenizer.decode([token])) if token != NO_TOKEN else "",
                        "n_tokens": sums.n_tokens,
                        "position_min": sums.position_min,
                        "position_max": sums.position_max,
                        "norm": sums.norm,
                        "multiple_max": sums.multiple_max,
                        "squares": sums.squares,
                        "strongest": sums.strongest,
                        "distance": sums.distance(np.broadcast_to(mean, np.shape(sums.vector))),
                    }

    def share(self, layer: int) -> float:
        """Return the share of the kept tokens' squared norms that the strongest hundredth carries."""
        kept = self.sums.get((layer, KEPT, "", NO_TOKEN), Sums())
        return kept.strongest / kept.squares if kept.squares else 0.0

    def tell(self, what: str) -> None:
        """Log how many tokens are massive; warn where a few of those that stay carry most of the norms."""
        for layer in self.layers():
            massive = [(key, sums) for key, sums in self.sums.items() if key[:2] == (layer, MASSIVE)]
            if massive:
                count = sum(sums.n_tokens for _, sums in massive)
                log.info("%s: layer %d: %d massive tokens are left out", what, layer, count)
            if self.share(layer) > MOST:
                log.warning(
                    "%s: layer %d: the strongest %.0f %% of the stored tokens carry %.0f %% of the squared "
                    "norms, and a dictionary will describe little else; lower `extraction.massive_ratio` "
                    "in the config: it leaves out tokens whose norm is so far above their sample's median",
                    what,
                    layer,
                    100 * STRONGEST,
                    100 * self.share(layer),
                )


def write_part(found: LeftOut, tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Write what was left out of one shard (contract LEFT_OUT_PARTS)."""
    write_table(pd.DataFrame(list(found.rows(tokenizer)), columns=LEFT_OUT_PARTS.names), LEFT_OUT_PARTS, path)

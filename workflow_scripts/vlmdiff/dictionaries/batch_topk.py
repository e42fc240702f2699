"""BatchTopK: the `k n` largest pre-activations of a batch of `n` tokens (arXiv 2412.06410).

Tokens have as many active features as they need, `k` on average. A token alone has no batch: in use, a
feature is active above a threshold, the mean over batches of the smallest value that was active. On disk such
a dictionary is a JumpReLU one with that threshold.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.jumprelu import chunk_pairs
from vlmdiff.dictionaries.loops import compiled_loops_fit
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.pairs import Pairs, joined_pairs, nonzero_pairs
from vlmdiff.dictionaries.topk import chunk_rows

# Weight of a new batch in the running mean of the smallest active values.
NEW_BATCH = 0.01
# A batch is searched above this part of the last smallest value; if too few lie there, above half of it ...
MARGIN = 0.8
# ... and at last above zero.
SMALLEST = 1e-6


class BatchTopKDictionary(TopKDictionary):
    """Keeps the largest pre-activations of a whole batch, `k` a token on average; as it is trained.

    Attributes:
        least: running mean of the smallest active values; 0 before the first batch.
    """

    kind = "batch_topk"
    least: Float[Tensor, ""]

    def __init__(self, d_model: int, d_sae: int, k: int, subtract_decoder_bias: bool = True):
        super().__init__(d_model, d_sae, k, subtract_decoder_bias)
        self.register_buffer("least", torch.zeros(()))

    def activate(self, pre: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Keep the largest positive pre-activations of all tokens together."""
        values, places = torch.topk(pre.flatten(), self.k * len(pre), sorted=False)
        return torch.zeros_like(pre).flatten().scatter(0, places, values.relu()).view_as(pre)

    @torch.no_grad()
    def choose(self, shifted: Float[Tensor, "n d_model"]) -> Pairs:
        """Return the active pairs of a batch, without changing the threshold."""
        if compiled_loops_fit(shifted, self.W_enc):
            return largest_of_batch(shifted, self.W_enc, self.b_enc, self.k, MARGIN * float(self.least))
        return nonzero_pairs(self.activate(torch.addmm(self.b_enc, shifted, self.W_enc)))

    @torch.no_grad()
    def watch(self, pairs: Pairs) -> None:
        """Count the smallest active value of a training batch in."""
        if not len(pairs.values):
            return
        smallest = pairs.values.min()
        known = self.least > 0
        self.least.copy_(torch.where(known, self.least.lerp(smallest, NEW_BATCH), smallest))

    @torch.no_grad()
    def as_used(self) -> JumpReLUDictionary:
        """Return the JumpReLU dictionary with the same weights whose thresholds are all `least`."""
        used = JumpReLUDictionary(self.d_model, self.d_sae, subtract_decoder_bias=self.subtract_decoder_bias)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(used, name).copy_(getattr(self, name))
        used.set_threshold(self.least.repeat(self.d_sae))
        return used

    @torch.no_grad()
    def rescale_input(self, factor: float) -> None:
        """Change the units, those of the threshold included."""
        super().rescale_input(factor)
        self.least.mul_(factor)


def largest_of_batch(
    x: Float[Tensor, "n d_model"], W_enc: Tensor, b_enc: Tensor, k: int, cutoff: float
) -> Pairs:
    """Return the `k n` largest positive pre-activations of a batch on a CPU; all, if fewer are positive.

    Args:
        x: what the encoder multiplies.
        W_enc, b_enc: the encoder.
        k: active features a token, on average.
        cutoff: where to look first: the result does not depend on it, the time does.
    """
    wanted = k * len(x)
    if cutoff <= 0:
        # Of a first batch some tokens tell about where the rest will lie.
        some = torch.addmm(b_enc, x[:64], W_enc).detach().flatten()
        cutoff = MARGIN * float(some.topk(min(len(some), k * min(64, len(x)))).values[-1])
    cutoff = max(cutoff, 0.0)
    while len((found := pairs_above(x, W_enc, b_enc, cutoff)).values) < wanted and cutoff > 0:
        cutoff = cutoff / 2 if cutoff > SMALLEST else 0.0
    if len(found.values) <= wanted:
        return found
    kept = np.zeros(len(found.values), bool)
    kept[np.argpartition(-found.values.numpy(), wanted - 1)[:wanted]] = True
    chosen = torch.from_numpy(kept)
    before = torch.cat([chosen.new_zeros(1, dtype=torch.int64), chosen.cumsum(0)])
    return Pairs(before[found.begins], found.columns[chosen], found.values[chosen])


def pairs_above(x: Tensor, W_enc: Tensor, b_enc: Tensor, cutoff: float) -> Pairs:
    """List the pre-activations of a batch above a number, by chunks of tokens."""
    rows, width = chunk_rows(W_enc.shape[1], x.device), W_enc.shape[1]
    buffer, threshold = torch.empty(min(len(x), rows), width), np.full(width, cutoff, np.float32)
    parts = []
    with torch.no_grad():
        for part in x.split(rows):
            pre = torch.addmm(b_enc, part, W_enc, out=buffer[: len(part)])
            parts.append(chunk_pairs(pre.numpy(), threshold, np.float32(0)).active)
    return joined_pairs(parts)

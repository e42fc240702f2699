"""Mean-ablate heads: take from them what depends on the sample, leave what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.activations.tokens import TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample
from vlmdiff.heads.head_values import head_slice, head_values
from vlmdiff.models.batch import Batch
from vlmdiff.models.hooks import edit_input
from vlmdiff.models.subject import Subject

Head = tuple[int, int]


@torch.no_grad()
def head_means(
    subject: Subject, samples: Sequence[Sample], layers: Sequence[int], batch_tokens: int
) -> dict[int, Float[Tensor, " heads_d_head"]]:
    """Return the mean input of `o_proj` over the text tokens of samples, for each layer."""
    totals = dict.fromkeys(layers, torch.zeros(subject.n_heads * subject.d_head, dtype=torch.float64))
    tokens = 0
    for _, batch in prepare_batches(subject, samples, batch_tokens):
        text = batch.token_type == TEXT
        tokens += int(text.sum())
        values = head_values(subject, batch, layers, subject.embed(batch))
        for layer in layers:
            own = values[layer]
            totals[layer] = totals[layer] + own[text.to(own.device)].double().sum(dim=0).cpu()
    return {layer: (total / max(tokens, 1)).float() for layer, total in totals.items()}


def write_mean(
    values: Float[Tensor, "samples tokens heads_d_head"],
    mean: Float[Tensor, " heads_d_head"],
    places: Sequence[slice],
    where: Bool[Tensor, "samples tokens"],
) -> Float[Tensor, "samples tokens heads_d_head"]:
    """Replace the slices of some heads by their mean, only at the marked tokens."""
    result, where = values.clone(), where.to(values.device)
    for place in places:
        own = mean[place].to(values)
        result[..., place] = torch.where(where[..., None], own, values[..., place])
    return result


@dataclass(frozen=True)
class HeadAblation:
    """Replaces what some heads write at text tokens by its mean over general questions.

    Zero would be off-distribution: heads write a large constant part that later blocks count on.

    Attributes:
        heads: (block, head) of the ablated heads.
        means: mean input of `o_proj` of each block.
    """

    subject: Subject
    heads: Sequence[Head]
    means: Mapping[int, Tensor]

    @property
    def first_block(self) -> int:
        """First block that the ablation touches; 0 if it touches none."""
        return min((layer for layer, _ in self.heads), default=0)

    def tokens(self, batch: Batch) -> Bool[Tensor, "samples sequence"]:
        """See `Intervention.tokens`: text tokens; image tokens and BOS keep their values."""
        return batch.token_type == TEXT

    @contextmanager
    def at(self, where: Bool[Tensor, "samples tokens"]) -> Iterator[None]:
        """See `Intervention.at`."""
        with ExitStack() as stack:
            for layer in sorted({layer for layer, _ in self.heads}):
                edit = self._edit(layer, where)
                stack.enter_context(edit_input(self.subject.attention_output(layer), edit))
            yield

    def _edit(self, layer: int, where: Tensor) -> Callable[[Tensor], Tensor]:
        places = [head_slice(self.subject, head) for own, head in self.heads if own == layer]
        return lambda values: write_mean(values, self.means[layer], places, where)

"""Attribution patching: the first-order effect of each head (docs/understand/method.md section 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.heads.corruption import Run
from vlmdiff.heads.head_values import by_head, feature_metric, head_values, recorded_heads
from vlmdiff.models.batch import Batch
from vlmdiff.models.subject import Subject

Values = dict[int, Tensor]


@dataclass
class Attribution:
    """Attributions of the heads of blocks 0 to the feature's own, each `(blocks, heads)`.

    Attributes:
        method_a: mean over image and text tokens of |(a_corrupt - a_clean) . g_clean|.
        method_b: the same with the gradient of the corrupt run.
        signed: mean over samples of sum over tokens of (a_corrupt - a_clean) . g_clean.
    """

    method_a: np.ndarray
    method_b: np.ndarray
    signed: np.ndarray


def walk_back(
    subject: Subject,
    run: Run,
    batch: Batch,
    embeds: Float[Tensor, "samples tokens d_model"],
    layer: int,
    directions: Sequence[Float[Tensor, " d_model"]],
    use: Callable[[int, Values, Values], None],
) -> Values:
    """Run once and hand on the gradients of each direction's metric at all heads, one direction at a time.

    The metric is summed over samples; samples do not see each other, so each sample's gradient is
    that of its own metric. Gradients of a large model take gigabytes: `use` should not keep them.

    Args:
        subject: the model.
        run: marks the tokens over which the metric is summed.
        batch, embeds: the clean or the corrupt version of the run.
        layer: layer of the features.
        directions: unit decoder rows.
        use: called with the index of a direction, head values and their gradients by block.

    Returns:
        head values by block, outside of the graph.
    """
    layers = range(layer + 1)
    with torch.enable_grad(), recorded_heads(subject, layers, differentiable=True) as heads:
        residual = subject.residuals(batch, [layer], embeds=embeds)[layer]
        metrics = [feature_metric(residual, direction, run.after_image).sum() for direction in directions]
    values = {at: heads[at].detach() for at in layers}
    for i, metric in enumerate(metrics):
        found = torch.autograd.grad(metric, [heads[at] for at in layers], retain_graph=i + 1 < len(metrics))
        use(i, values, dict(zip(layers, found)))
    return values


def per_token(difference: Tensor, gradient: Tensor, n_heads: int) -> Float[Tensor, "samples tokens heads"]:
    """Return the inner product of difference and gradient within each head."""
    return by_head(difference.float() * gradient.float(), n_heads).sum(dim=-1)


def corrupt_minus_clean(corrupt: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """Return corrupt - clean at the marked tokens; 16-bit values are subtracted in float32."""
    wide = torch.promote_types(clean.dtype, torch.float32)
    return (corrupt.to(wide) - clean.to(wide)) * real.to(clean.device)[..., None]


def add_run(
    totals: Sequence[Attribution], subject: Subject, run: Run, layer: int, directions: Sequence[Tensor]
) -> None:
    """Add one batch's sums to the totals of the features of one layer.

    The corrupt values are computed once more without a graph, so that never more than one graph and
    one set of gradients is in memory.
    """
    corrupt = head_values(subject, run.corrupt_batch, range(layer + 1), run.corrupt)

    def from_clean(i: int, clean: Values, gradients: Values) -> None:
        for at, gradient in gradients.items():
            first = per_token(
                corrupt_minus_clean(corrupt[at], clean[at], run.real), gradient, subject.n_heads
            )
            totals[i].method_a[at] += first.abs().sum(dim=(0, 1)).cpu().numpy()
            totals[i].signed[at] += first.sum(dim=(0, 1)).cpu().numpy()

    clean = walk_back(subject, run, run.batch, run.clean, layer, directions, from_clean)

    def from_corrupt(i: int, _: Values, gradients: Values) -> None:
        for at, gradient in gradients.items():
            second = per_token(
                corrupt_minus_clean(corrupt[at], clean[at], run.real), gradient, subject.n_heads
            )
            totals[i].method_b[at] += second.abs().sum(dim=(0, 1)).cpu().numpy()

    walk_back(subject, run, run.corrupt_batch, run.corrupt, layer, directions, from_corrupt)


def attribute(
    subject: Subject, runs: Sequence[Run], layer: int, directions: Sequence[Float[Tensor, " d_model"]]
) -> list[Attribution]:
    """Attribute features of one layer to the heads that can influence it.

    Means go over all image and text tokens, not only over those after the image: a head may
    also act through what it writes at image tokens, and the exact patch changes these too; so it may
    at a BOS that follows the image. A BOS that stands first is the same in both runs and adds nothing.

    Args:
        subject: the model.
        runs: clean and corrupt versions of the samples.
        layer: layer of the features; heads of blocks 0 to `layer` are eligible.
        directions: unit decoder rows; they share the forward passes.
    """
    shape = (layer + 1, subject.n_heads)
    totals = [Attribution(*(np.zeros(shape) for _ in range(3))) for _ in directions]
    for run in runs:
        add_run(totals, subject, run, layer, directions)
    tokens = sum(int(run.real.sum()) for run in runs)
    samples = sum(len(run.batch) for run in runs)
    return [Attribution(one.method_a / tokens, one.method_b / tokens, one.signed / samples) for one in totals]

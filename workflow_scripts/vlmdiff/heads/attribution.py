"""Attribution patching: what each head does to a feature, to first order (docs/method.md section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.heads.activity import by_head, feature_metric, recorded_heads
from vlmdiff.heads.corruption import Run
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


def values_and_gradients(
    subject: Subject,
    run: Run,
    batch: Batch,
    embeds: Float[Tensor, "samples tokens d_model"],
    layer: int,
    directions: Sequence[Float[Tensor, " d_model"]],
) -> tuple[Values, list[Values]]:
    """Run once and return head values and, for each direction, their gradients of its metric.

    The metric is summed over samples; samples do not see each other, so each sample's gradient is
    that of its own metric.
    """
    layers = range(layer + 1)
    with torch.enable_grad(), recorded_heads(subject, layers, differentiable=True) as heads:
        residual = subject.residuals(batch, [layer], embeds=embeds)[layer]
        gradients = []
        for i, direction in enumerate(directions):
            metric = feature_metric(residual, direction, run.after_image).sum()
            found = torch.autograd.grad(
                metric, [heads[at] for at in layers], retain_graph=i + 1 < len(directions)
            )
            gradients.append(dict(zip(layers, found)))
    return {at: heads[at].detach() for at in layers}, gradients


def per_token(difference: Tensor, gradient: Tensor, n_heads: int) -> Float[Tensor, "samples tokens heads"]:
    """Return the inner product of difference and gradient within each head."""
    return by_head(difference.float() * gradient.float(), n_heads).sum(dim=-1)


def add_run(
    totals: Sequence[Attribution], subject: Subject, run: Run, layer: int, directions: Sequence[Tensor]
) -> None:
    """Add one batch's sums to the totals of the features of one layer."""
    clean, from_clean = values_and_gradients(subject, run, run.batch, run.clean, layer, directions)
    corrupt, from_corrupt = values_and_gradients(
        subject, run, run.corrupt_batch, run.corrupt, layer, directions
    )
    for total, g_clean, g_corrupt in zip(totals, from_clean, from_corrupt):
        for at in range(layer + 1):
            difference = (corrupt[at] - clean[at]) * run.real[..., None]
            first = per_token(difference, g_clean[at], subject.n_heads)
            second = per_token(difference, g_corrupt[at], subject.n_heads)
            total.method_a[at] += first.abs().sum(dim=(0, 1)).cpu().numpy()
            total.method_b[at] += second.abs().sum(dim=(0, 1)).cpu().numpy()
            total.signed[at] += first.sum(dim=(0, 1)).cpu().numpy()


def attribute(
    subject: Subject, runs: Sequence[Run], layer: int, directions: Sequence[Float[Tensor, " d_model"]]
) -> list[Attribution]:
    """Attribute features of one layer to the heads that can influence it.

    Means go over all image and text tokens, not only over those after the image: a head may
    also act through what it writes at image tokens, and the exact patch changes these too. BOS and
    tokens before the image are the same in both runs and add nothing.

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

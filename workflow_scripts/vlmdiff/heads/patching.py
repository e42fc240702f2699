"""Exact activation patching of heads: what attribution patching only estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.heads.activity import feature_metric, head_slice, head_values
from vlmdiff.heads.corruption import Run
from vlmdiff.interventions.restart import restart
from vlmdiff.models.hooks import edit_input
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress

Feature = tuple[int, int]


@dataclass
class Patching:
    """Exact effects on one feature of the heads of blocks 0 to its own.

    Attributes:
        exact: `(blocks, heads)` mean over samples of metric(patched) - metric(clean).
        exact_abs: mean over samples of its absolute value.
        metric_clean, metric_corrupt: mean metric of the clean and the corrupt runs.
    """

    exact: np.ndarray
    exact_abs: np.ndarray
    metric_clean: float = 0.0
    metric_corrupt: float = 0.0


def patch_slice(values: Tensor, source: Tensor, place: slice) -> Tensor:
    """Return `values` with one head's slice taken from `source`."""
    patched = values.clone()
    patched[..., place] = source[..., place]
    return patched


def patcher(source: Tensor, place: slice) -> Callable[[Tensor], Tensor]:
    """Return the edit that patches one head."""
    return lambda values: patch_slice(values, source, place)


def metrics(
    run: Run, residuals: Mapping[int, Tensor], directions: Mapping[Feature, Tensor], from_layer: int = 0
) -> dict[Feature, Float[Tensor, " samples"]]:
    """Return the metric of every feature at or above a layer."""
    return {
        feature: feature_metric(residuals[feature[0]], direction, run.after_image)
        for feature, direction in directions.items()
        if feature[0] >= from_layer
    }


def patched_metrics(
    subject: Subject,
    run: Run,
    entering: Tensor,
    source: Tensor,
    at: tuple[int, int],
    directions: Mapping[Feature, Tensor],
) -> dict[Feature, Float[Tensor, " samples"]]:
    """Return metrics of the clean run with one head's output replaced by `source`'s, at all tokens.

    Args:
        subject: the model.
        run: the samples.
        entering: clean residual stream entering the head's block.
        source: input of that block's `o_proj` in the corrupt run.
        at: (block, head).
        directions: unit decoder rows of the features.
    """
    layer, head = at
    layers = sorted({own for own, _ in directions if own >= layer})
    with (
        restart(subject, layer, entering) as embeds,
        edit_input(subject.attention_output(layer), patcher(source, head_slice(subject, head))),
    ):
        residuals = subject.residuals(run.batch, layers, embeds=embeds)
    return metrics(run, residuals, directions, layer)


def add_run(
    totals: Mapping[Feature, Patching], subject: Subject, run: Run, directions: Mapping[Feature, Tensor]
) -> None:
    """Add one batch's sums over samples to the totals."""
    deepest = max(layer for layer, _ in directions)
    layers = list(range(deepest + 1))
    clean_residuals = subject.residuals(run.batch, layers, embeds=run.clean)
    corrupt_residuals = subject.residuals(run.corrupt_batch, layers, embeds=run.corrupt)
    source = head_values(subject, run.corrupt_batch, layers, run.corrupt)
    streams = subject.entering(run.batch, layers, embeds=run.clean)
    clean, corrupt = (metrics(run, values, directions) for values in (clean_residuals, corrupt_residuals))
    for feature, total in totals.items():
        total.metric_clean += float(clean[feature].sum())
        total.metric_corrupt += float(corrupt[feature].sum())
    for layer in layers:
        # Block 0 is given embeddings, which some models still scale.
        entering = streams[layer]
        for head in range(subject.n_heads):
            patched = patched_metrics(subject, run, entering, source[layer], (layer, head), directions)
            for feature, values in patched.items():
                change = values - clean[feature]
                totals[feature].exact[layer, head] += float(change.sum())
                totals[feature].exact_abs[layer, head] += float(change.abs().sum())


@torch.no_grad()
def patch_exactly(
    subject: Subject, runs: Sequence[Run], directions: Mapping[Feature, Float[Tensor, " d_model"]]
) -> dict[Feature, Patching]:
    """Patch every head, one at a time, and measure all features that it can influence.

    Each patched run restarts at the head's own block: one run a head serves all features.
    """
    shapes = {feature: (feature[0] + 1, subject.n_heads) for feature in directions}
    totals = {feature: Patching(np.zeros(shape), np.zeros(shape)) for feature, shape in shapes.items()}
    for run in progress(runs, "batches"):
        add_run(totals, subject, run, directions)
    samples = sum(len(run.batch) for run in runs)
    return {
        feature: Patching(
            one.exact / samples,
            one.exact_abs / samples,
            one.metric_clean / samples,
            one.metric_corrupt / samples,
        )
        for feature, one in totals.items()
    }

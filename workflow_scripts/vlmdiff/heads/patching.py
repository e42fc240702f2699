"""Exact activation patching of heads: what attribution patching only estimates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.heads.corruption import Run
from vlmdiff.heads.head_values import feature_metric, head_slice, recorded_heads
from vlmdiff.interventions.restart import restart
from vlmdiff.models.hooks import edit_input, record_inputs
from vlmdiff.models.subject import Subject
from vlmdiff.runtime.progress import progress

Feature = tuple[int, int]
Head = tuple[int, int]


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


def empty_effects(feature: Feature, n_heads: int, patched: Sequence[Head]) -> Patching:
    """Return zeros for the heads that are patched, NaN for the others."""
    effects = np.full((feature[0] + 1, n_heads), np.nan)
    for layer, head in patched:
        if layer <= feature[0]:
            effects[layer, head] = 0.0
    return Patching(effects, effects.copy())


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
    totals: Mapping[Feature, Patching],
    subject: Subject,
    run: Run,
    directions: Mapping[Feature, Tensor],
    heads: Sequence[Head],
) -> None:
    """Add one batch's sums over samples to the totals."""
    read, layers = sorted({layer for layer, _ in directions}), sorted({layer for layer, _ in heads})
    with recorded_heads(subject, layers) as source:
        residuals = subject.residuals(run.corrupt_batch, read, embeds=run.corrupt)
        corrupt = metrics(run, residuals, directions)
    # Block 0 is given embeddings, which some models still scale.
    with record_inputs({layer: subject.block(layer) for layer in layers}) as streams:
        clean = metrics(run, subject.residuals(run.batch, read, embeds=run.clean), directions)
    for feature, total in totals.items():
        total.metric_clean += float(clean[feature].sum())
        total.metric_corrupt += float(corrupt[feature].sum())
    for layer, head in heads:
        patched = patched_metrics(subject, run, streams[layer], source[layer], (layer, head), directions)
        for feature, values in patched.items():
            change = values - clean[feature]
            totals[feature].exact[layer, head] += float(change.sum())
            totals[feature].exact_abs[layer, head] += float(change.abs().sum())


@torch.no_grad()
def patch_exactly(
    subject: Subject,
    runs: Sequence[Run],
    directions: Mapping[Feature, Float[Tensor, " d_model"]],
    heads: Collection[Head] | None = None,
) -> dict[Feature, Patching]:
    """Patch heads, one at a time, and measure all features that each can influence.

    Each patched run restarts at the head's own block: one run a head serves all features.

    Args:
        subject: the model.
        runs: clean and corrupt versions of the samples.
        directions: unit decoder rows of the features.
        heads: (block, head) of those that are patched; all if None. The others' effects are NaN.
    """
    deepest = max(layer for layer, _ in directions)
    every = list(product(range(deepest + 1), range(subject.n_heads)))
    chosen = set(every if heads is None else heads)
    patched = [head for head in every if head in chosen]
    totals = {feature: empty_effects(feature, subject.n_heads, patched) for feature in directions}
    for run in progress(runs, "batches"):
        add_run(totals, subject, run, directions, patched)
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

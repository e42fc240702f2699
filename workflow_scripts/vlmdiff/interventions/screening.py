"""What ablating each of thousands of directions would do, to first order: one forward and backward pass.

An ablation takes the component along a direction from all that blocks write. Removing it from the residual
stream after every block is the same as removing it from what each attention and MLP adds, and once from what
entered the first ablated block: the parts of that block's output. The first-order estimate is the inner
product of these removed parts with the gradient of the margin at the place where they are added (Nanda,
"Attribution patching", 2023; Syed et al. 2023, for edges). It only chooses which features are measured
exactly; it serves candidates and random features alike, so it favours neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.activations.tokens import TEXT
from vlmdiff.data.batching import prepare_batches, sample_lengths
from vlmdiff.interventions.evaluation import Evaluation, with_images_at
from vlmdiff.interventions.feature_ablation import check_directions
from vlmdiff.models.batch import Batch
from vlmdiff.models.hooks import edit_output, record_inputs
from vlmdiff.models.memory import gradient_tokens
from vlmdiff.models.subject import Subject

Feature = tuple[int, int]
# Where a part is added to the residual stream: (block, attention 0 or MLP 1).
Site = tuple[int, int]


def estimated_changes(
    subject: Subject,
    evaluation: Evaluation,
    directions: Mapping[Feature, Tensor],
    features: Sequence[Feature],
    scope: str,
    batch_tokens: int,
) -> np.ndarray:
    """Estimate the mean change of the margin that ablating each feature alone would bring.

    Args:
        subject: the model.
        evaluation: the questions.
        directions: unit direction of each feature.
        features: which of them.
        scope: `own_layer` or `all_layers`.
        batch_tokens: most tokens in one pass; fewer where the graph would not fit into memory.

    Returns:
        `(features,)` estimates in logits.
    """
    check_directions(subject, {feature: directions[feature] for feature in features})
    longest = max(sample_lengths(subject, evaluation.samples))
    budget = gradient_tokens(subject, longest, batch_tokens)
    matrix = torch.stack([directions[feature] for feature in features]).to(subject.device)
    layers = torch.tensor([layer for layer, _ in features])
    total = torch.zeros(len(features), dtype=torch.float64)
    for indices, batch in prepare_batches(subject, evaluation.samples, budget):
        for own, change in removed_parts(subject, evaluation, indices, batch, scope):
            chosen = torch.arange(len(features)) if own is None else torch.nonzero(layers == own).flatten()
            if len(chosen):
                total[chosen] -= inner_products(*change, matrix[chosen.to(matrix.device)])
    return (total / len(evaluation.samples)).numpy()


def removed_parts(
    subject: Subject, evaluation: Evaluation, indices: Sequence[int], batch: Batch, scope: str
) -> Iterator[tuple[int | None, tuple[Tensor, Tensor]]]:
    """Yield what an ablation touches, with its gradient, at the text tokens of a batch.

    Yields:
        The layer whose features are concerned (None: those of all layers), and values and gradients
        `(tokens, d_model)`.
    """
    values, gradients, entering = backward(subject, evaluation, indices, batch)
    text = batch.token_type == TEXT
    for layer in range(subject.n_layers):
        for part in (0, 1):
            pair = values[layer, part], gradients[layer, part]
            yield None if scope == "all_layers" else layer, tuple(at_text(one, text) for one in pair)
        # What is added last has the gradient of the block's output.
        if scope == "own_layer" or layer == 0:
            pair = entering[layer], gradients[layer, 1]
            yield None if scope == "all_layers" else layer, tuple(at_text(one, text) for one in pair)


def at_text(values: Tensor, text: Tensor) -> Tensor:
    """Return the text tokens of what a module wrote; OPT's MLP puts tokens of all samples in one row."""
    return values.detach().reshape(*text.shape, -1)[text.to(values.device)].float()


def backward(
    subject: Subject, evaluation: Evaluation, indices: Sequence[int], batch: Batch
) -> tuple[dict[Site, Tensor], dict[Site, Tensor], dict[int, Tensor]]:
    """Run a batch once and return what each site writes, the gradients there, and what enters each block."""
    recorded: dict[Site, Tensor] = {}

    def keep(site: Site, values: Tensor) -> Tensor:
        recorded[site] = values if values.requires_grad else values.detach().requires_grad_(True)
        return recorded[site]

    shown = with_images_at(batch, subject.device)
    with torch.enable_grad(), ExitStack() as stack:
        for layer in range(subject.n_layers):
            for part, module in enumerate(subject.writers(layer)):
                edit = lambda values, site=(layer, part): keep(site, values)  # noqa: E731
                stack.enter_context(edit_output(module, edit))
        blocks = {layer: subject.block(layer) for layer in range(subject.n_layers)}
        entering = stack.enter_context(record_inputs(blocks))
        margin = evaluation.scorer.margins(subject.final_logits(shown), indices).sum()
        sites = list(recorded)
        gradients = dict(zip(sites, torch.autograd.grad(margin, [recorded[site] for site in sites])))
    return recorded, gradients, entering


def inner_products(
    values: Float[Tensor, "tokens d_model"],
    gradients: Float[Tensor, "tokens d_model"],
    directions: Float[Tensor, "features d_model"],
) -> Float[Tensor, " features"]:
    """Return the sum over tokens of (value along d) times (gradient along d), for each direction d."""
    directions = directions.to(values.device)
    found = ((values @ directions.T) * (gradients.to(values) @ directions.T)).sum(dim=0)
    return found.double().cpu()

"""Remove feature directions from what the blocks of a model write (docs/understand/method.md section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmdiff.activations.tokens import TEXT
from vlmdiff.dictionaries.partial_reads import FeatureRows, feature_rows, halves
from vlmdiff.models.batch import Batch
from vlmdiff.models.hooks import edit_output
from vlmdiff.models.subject import Subject

Feature = tuple[int, int]
SCOPES = ("own_layer", "all_layers")


class AblationError(ValueError):
    """An ablation cannot be set up."""


def unit_directions(
    folders: Mapping[int, str | Path], features: Sequence[Feature], crosscoder: bool = False
) -> dict[Feature, Float[Tensor, " d_model"]]:
    """Return the unit-norm decoder rows of features.

    Args:
        folders: folder of the dictionary of each layer.
        features: (layer, index) of each feature.
        crosscoder: whether rows stand for two models; then those of the tuned one are returned.

    Raises:
        AblationError: a feature is not in the dictionaries, or its decoder row is zero.
    """
    found: dict[Feature, Tensor] = {}
    for layer in sorted({layer for layer, _ in features}):
        if layer not in folders:
            raise AblationError(
                f"layer {layer} has no dictionary; found layers {sorted(folders)}. Remake the features."
            )
        with feature_rows(folders[layer]) as file:
            for feature in sorted({index for own, index in features if own == layer}):
                found[layer, feature] = unit_direction(file, (layer, feature), crosscoder)
    return found


def unit_direction(
    file: FeatureRows, feature: Feature, crosscoder: bool = False
) -> Float[Tensor, " d_model"]:
    """Return one feature's decoder row at unit norm; nothing else of the dictionary is read.

    Args:
        file: the dictionary.
        feature: layer and index.
        crosscoder: see `unit_directions`.

    Raises:
        AblationError: there is no such feature, or its row is zero.
    """
    layer, index = feature
    rows = file.decoder(index, index + 1) if 0 <= index < file.shape[0] else np.zeros((0, 1), np.float32)
    row = torch.tensor(halves(rows)[1] if crosscoder else rows)
    if crosscoder and rows.any() and not row.norm() > 0:
        raise AblationError(
            f"L{layer}F{index}: its row is zero for the tuned model, which has nothing of it to remove; take "
            "it out of the features"
        )
    if not row.norm() > 0:
        raise AblationError(
            f"L{layer}F{index}: expected a decoder row other than zero among {file.shape[0]}. "
            "Remake the features."
        )
    return row[0] / row[0].norm()


def check_directions(subject: Subject, directions: Mapping[Feature, Tensor]) -> None:
    """Refuse directions of another width than the model's residual stream.

    Raises:
        AblationError: naming the first such feature and both widths.
    """
    for (layer, index), direction in directions.items():
        if len(direction) != subject.d_model:
            raise AblationError(
                f"L{layer}F{index}: its direction has {len(direction)} dimensions, the residual stream of "
                f"'{subject.name}' has {subject.d_model}; train or import dictionaries for this model"
            )


def orthonormal_basis(
    directions: Float[Tensor, "k d_model"], tolerance: float = 1e-4
) -> Float[Tensor, "d_model rank"]:
    """Return an orthonormal basis of the span of unit directions.

    Removing non-orthogonal directions one after another is not the projection onto the complement
    of their span: the later ones put parts of the earlier ones back, and the result depends on the
    order. The basis comes from a singular value decomposition rather than from QR because QR fills
    up a (nearly) dependent set with arbitrary directions, which would then be removed as well.
    """
    _, values, rows = torch.linalg.svd(directions.double(), full_matrices=False)
    return rows[values > tolerance * values.max()].T.float().contiguous()


def remove_span(
    values: Float[Tensor, "batch tokens d_model"],
    basis: Float[Tensor, "d_model rank"],
    where: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "batch tokens d_model"]:
    """Project `values` onto the complement of an orthonormal basis, only at the marked tokens.

    In float32, whatever the model's own precision; blocks may lie on other devices than the batch.
    """
    basis, where = basis.to(values.device), where.to(values.device)
    work = values.float()
    component = (work @ basis) @ basis.T
    return (work - component * where[..., None]).to(values.dtype)


@dataclass(frozen=True)
class FeatureAblation:
    """Which directions are removed from the outputs of which block.

    Attributes:
        bases: orthonormal basis `(d_model, rank)` of each block that is touched.
    """

    subject: Subject
    bases: Mapping[int, Tensor]

    @property
    def first_block(self) -> int:
        """First block that the ablation touches; 0 if it touches none."""
        return min(self.bases, default=0)

    def tokens(self, batch: Batch) -> Bool[Tensor, "samples sequence"]:
        """See `Intervention.tokens`: text tokens.

        Image tokens and BOS keep their values at the ablated block; they may change later only
        through attention to text tokens.
        """
        return batch.token_type == TEXT

    @contextmanager
    def at(self, where: Bool[Tensor, "samples tokens"]) -> Iterator[None]:
        """See `Intervention.at`: ablate in attention, MLP and block outputs."""
        with ExitStack() as stack:
            for layer, basis in self.bases.items():
                edit = remover(basis, where)
                for part in (*self.subject.writers(layer), self.subject.block(layer)):
                    stack.enter_context(edit_output(part, edit))
            yield


def remover(
    basis: Float[Tensor, "d_model rank"], where: Bool[Tensor, "batch tokens"]
) -> Callable[[Tensor], Tensor]:
    """Return the edit of one block's outputs; OPT's MLP puts tokens of all samples in one row."""
    return lambda values: remove_span(values.reshape(*where.shape, -1), basis, where).view_as(values)


def plan_ablation(
    subject: Subject, directions: Mapping[Feature, Tensor], features: Sequence[Feature], scope: str
) -> FeatureAblation:
    """Ablate features at their own layers, or all of them at every layer.

    Args:
        subject: the model.
        directions: unit direction of each feature.
        features: the features to ablate; none means no intervention.
        scope: `own_layer` or `all_layers`.

    Raises:
        AblationError: an unknown scope, or directions of another width than the model's.
    """
    if scope not in SCOPES:
        raise AblationError(f"scope {scope!r} is unknown; allowed are {list(SCOPES)}")
    check_directions(subject, {feature: directions[feature] for feature in features})
    if not features:
        return FeatureAblation(subject, {})
    if scope == "all_layers":
        basis = orthonormal_basis(torch.stack([directions[feature] for feature in features]))
        return FeatureAblation(subject, dict.fromkeys(range(subject.n_layers), basis))
    layers = sorted({layer for layer, _ in features})
    rows = {layer: [directions[feature] for feature in features if feature[0] == layer] for layer in layers}
    return FeatureAblation(subject, {layer: orthonormal_basis(torch.stack(rows[layer])) for layer in layers})

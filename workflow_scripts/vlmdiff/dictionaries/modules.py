"""Dictionaries as plain modules: TopK and JumpReLU (arXiv 2406.04093 and 2407.14435)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlmdiff.dictionaries.auxiliary import DeadReconstruction
from vlmdiff.dictionaries.jumprelu import (
    JumpPairs,
    JumpReLU,
    SparseJumpReLU,
    Step,
    jump_pairs,
    jump_pairs_on_device,
)
from vlmdiff.dictionaries.loops import DEVICE_LOOPS, compiled_loops_fit
from vlmdiff.dictionaries.pairs import (
    PairGradients,
    Pairs,
    count_active,
    decode_active,
    nonzero_pairs,
    stacked,
)
from vlmdiff.dictionaries.topk import SparseReconstruction, topk_pairs

SAME_NORM = 1e-6  # norms that differ by less are the same but for the rounding of float32


@dataclass(frozen=True)
class Reconstruction:
    """What training needs of one forward pass.

    Attributes:
        x_hat: the reconstruction `(n, d_model)`.
        l0: mean number of active features a token; differentiable for JumpReLU.
        firings: for each feature the number of tokens on which it is active, `(d_sae,)`.
        shorter: reconstructions by the first features alone, where the loss counts some.
    """

    x_hat: Float[Tensor, "n d_model"]
    l0: Float[Tensor, ""]
    firings: Int64[Tensor, " d_sae"]
    shorter: tuple[Float[Tensor, "n d_model"], ...] = ()


class Dictionary(nn.Module, ABC):
    """A sparse autoencoder of a residual stream: `x_hat = act((x - b_dec) W_enc + b_enc) W_dec + b_dec`.

    Parameters are `W_enc (d_model, d_sae)`, `b_enc (d_sae,)`, `W_dec (d_sae, d_model)` and
    `b_dec (d_model,)`. Rows of `W_dec` have unit norm, so that `z` is in the units of `x`.

    Args:
        d_model: width of the residual stream.
        d_sae: number of features.
        subtract_decoder_bias: subtract `b_dec` from the input of the encoder.
    """

    kind: ClassVar[str]

    def __init__(self, d_model: int, d_sae: int, subtract_decoder_bias: bool = True):
        super().__init__()
        self.d_model, self.d_sae = d_model, d_sae
        self.subtract_decoder_bias = subtract_decoder_bias
        # Of the encoder's product where a GPU chooses features; set by a training.
        self.precision = "fp32"
        self.W_enc = nn.Parameter(torch.zeros(d_model, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_model))
        self.b_dec = nn.Parameter(torch.zeros(d_model))
        # Set by an optimiser that takes active pairs in the place of gradients.
        self.defers = False
        self._kept: list[PairGradients] = []

    def pre_activations(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_sae"]:
        """Return what the activation function sees."""
        if self.subtract_decoder_bias:
            x = x - self.b_dec
        return torch.addmm(self.b_enc, x, self.W_enc)

    @abstractmethod
    def activate(self, pre: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Apply the activation function."""

    def encode(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_sae"]:
        """Return the activations of all features, zeros included."""
        return self.activate(self.pre_activations(x))

    def active_pairs(self, x: Float[Tensor, "n d_model"]) -> Pairs:
        """Return the active features of each token with their activations; nothing is differentiable."""
        return nonzero_pairs(self.encode(x))

    def shifted(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Return what the encoder multiplies, outside of any graph."""
        return x - self.b_dec.detach() if self.subtract_decoder_bias else x

    def decode(self, z: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_model"]:
        """Return the residual stream that the activations stand for."""
        return torch.addmm(self.b_dec, z, self.W_dec)

    def decode_pairs(self, pairs: Pairs) -> Float[Tensor, "n d_model"]:
        """Return the residual stream that active pairs stand for; nothing is differentiable."""
        if not (pairs.values < 0).any():
            return decode_active(pairs, self.W_dec.detach(), self.b_dec.detach())
        # Sums over pairs take a negative value for one that is switched off.
        z = pairs.values.new_zeros(len(pairs.begins) - 1, self.d_sae)
        z[pairs.tokens(), pairs.columns] = pairs.values
        return self.decode(z).detach()

    def forward(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Reconstruct residuals, densely."""
        return self.decode(self.encode(x))

    @abstractmethod
    def reconstruct(self, x: Float[Tensor, "n d_model"]) -> Reconstruction:
        """Reconstruct residuals as `forward` does, as fast as training allows, with firing counts."""

    def as_used(self) -> Dictionary:
        """Return what is used of a trained dictionary; itself, unless it was trained as another kind."""
        return self

    def take_pairs(self) -> PairGradients | None:
        """Return, once, what a deferring dictionary has in the place of weight gradients; None if nothing."""
        kept, self._kept = self._kept, []
        return stacked(kept) if kept else None

    def _keep(self, found: PairGradients) -> None:
        self._kept.append(found)

    def _keeper(self) -> Callable[[PairGradients], None] | None:
        return self._keep if self.defers else None

    @torch.no_grad()
    def rescale_input(self, factor: float) -> None:
        """Change the units: afterwards `factor * x` is reconstructed as `factor *` the former `x_hat`."""
        for parameter in (self.b_enc, self.b_dec):
            parameter.mul_(factor)

    @torch.no_grad()
    def fold_decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Bring the rows of the decoder to unit norm; the encoder takes their norms, so that `z W_dec` stays.

        A TopK dictionary chooses by the new pre-activations afterwards: the old ones times the norms. A row
        of zeros stays.

        Returns:
            what each row was divided by.
        """
        factors = row_norms(self.W_dec)
        self.W_dec.div_(factors[:, None])
        self._scale_encoder(factors)
        return factors

    @torch.no_grad()
    def _scale_encoder(self, factors: Float[Tensor, " d_sae"]) -> None:
        self.W_enc.mul_(factors)
        self.b_enc.mul_(factors)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring the rows of the decoder to unit norm, in place."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove the part of the decoder's gradient along its unit rows, which normalising would undo."""
        gradient = self.W_dec.grad
        if gradient is not None:
            along = (gradient * self.W_dec).sum(dim=1, keepdim=True)
            gradient.addcmul_(along, self.W_dec, value=-1)


def row_norms(W_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, " d_sae"]:
    """Return the norm of each row; 1 for a row of zeros, which cannot be brought to unit norm."""
    norms = W_dec.detach().norm(dim=1)
    return torch.where(norms > 0, norms, 1.0)


class TopKDictionary(Dictionary):
    """Keeps the `k` largest pre-activations of each token, then applies ReLU.

    A dictionary that was made elsewhere may have chosen among features whose decoder rows differ in norm.
    Its encoder stays in the scale of that choice, and `z = divisor * relu(pre)` is in the units of `x`: the
    choice is by `z / divisor`. The divisor is no parameter; None means 1.
    """

    kind = "topk"
    divisor: Float[Tensor, " d_sae"] | None

    def __init__(
        self,
        d_model: int,
        d_sae: int,
        k: int,
        subtract_decoder_bias: bool = True,
        divisor: Float[Tensor, " d_sae"] | None = None,
    ):
        super().__init__(d_model, d_sae, subtract_decoder_bias)
        if not 1 <= k <= d_sae:
            raise ValueError(f"k must lie between 1 and d_sae = {d_sae}; found {k}")
        self.k = k
        self.register_buffer("divisor", divisor)

    def activate(self, pre: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Keep the `k` largest pre-activations, negative ones set to zero; they take their divisors."""
        values, indices = torch.topk(pre, self.k, dim=1, sorted=False)
        values = values.relu() if self.divisor is None else values.relu() * self.divisor[indices]
        return torch.zeros_like(pre).scatter(1, indices, values)

    @torch.no_grad()
    def active_pairs(self, x: Float[Tensor, "n d_model"]) -> Pairs:
        """Return the `k` features of each token; the value of one is 0 where ReLU has switched it off."""
        return self.choose(self.shifted(x))

    def watch(self, pairs: Pairs) -> None:
        """Take notice of the active pairs of a training batch; most kinds need not."""

    def choose(self, shifted: Float[Tensor, "n d_model"]) -> Pairs:
        """Return the active pairs of what the encoder multiplies."""
        return topk_pairs(shifted, self.W_enc, self.b_enc, self.k, self.divisor, self.precision)

    def reconstruct(self, x: Float[Tensor, "n d_model"]) -> Reconstruction:
        """Reconstruct through the `k` active features alone, forwards and backwards."""
        x_hat, pairs = SparseReconstruction.apply(
            x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.choose, self.subtract_decoder_bias,
            self._keeper(), self.divisor,
        )  # fmt: skip
        if torch.is_grad_enabled():
            self.watch(pairs)
        firings = count_active(pairs, self.d_sae)
        return Reconstruction(x_hat, firings.sum() / x.shape[0], firings)

    def reconstruct_by(
        self, x: Float[Tensor, "n d_model"], features: Int64[Tensor, " some"], k: int
    ) -> Float[Tensor, "n d_model"]:
        """Return what the `k` strongest of some features of each token stand for, without `b_dec`."""
        return DeadReconstruction.apply(
            x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, features, k, self.subtract_decoder_bias,
            self._keeper(), self.divisor,
        )  # fmt: skip

    @torch.no_grad()
    def keep_choice(self) -> None:
        """Bring the rows of the decoder to unit norm without another choice: activations take their norms.

        The norms become the divisor, unless they are the same but for the rounding of float32: then the
        encoder takes them. A row of zeros stays, with a divisor of 1.
        """
        factors = row_norms(self.W_dec)
        if self.divisor is None and factors.max() <= (1 + SAME_NORM) * factors.min():
            self.fold_decoder_norms()
            return
        self.W_dec.div_(factors[:, None])
        self.divisor = factors if self.divisor is None else self.divisor * factors

    @torch.no_grad()
    def fold_divisor(self) -> None:
        """Let the encoder take the divisor, for an activation function that does not choose."""
        if self.divisor is not None:
            self._scale_encoder(self.divisor)
            self.divisor = None


class JumpReLUDictionary(Dictionary):
    """Passes a pre-activation where it exceeds its feature's threshold.

    The logarithm of the threshold is trained, so that it stays positive. Gradients go through the
    jump by a rectangle of `bandwidth` around the threshold, in the units of `x` during training.
    A threshold of zero, which makes the feature a ReLU, is minus infinity here and stays as it is.
    A threshold below zero, which others' trainings may end with, lets negative activations pass; such
    thresholds are kept in `below_zero`, which is no parameter; None if there are none.
    """

    kind = "jumprelu"

    def __init__(
        self, d_model: int, d_sae: int, bandwidth: float = 0.001, subtract_decoder_bias: bool = True
    ):
        super().__init__(d_model, d_sae, subtract_decoder_bias)
        if bandwidth <= 0:
            raise ValueError(f"bandwidth must be positive; found {bandwidth}")
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.zeros(d_sae))
        self.register_buffer("below_zero", None)

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """Thresholds, in the units of `x`."""
        positive = self.log_threshold.exp()
        return positive if self.below_zero is None else positive + self.below_zero

    @torch.no_grad()
    def set_threshold(self, threshold: Float[Tensor, " d_sae"]) -> None:
        """Take thresholds of any sign."""
        self.log_threshold.copy_(threshold.clamp_min(0).log())
        self.below_zero = threshold.clamp_max(0) if bool((threshold < 0).any()) else None

    def activate(self, pre: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Pass what exceeds the threshold."""
        return JumpReLU.apply(pre, self.threshold, self.bandwidth)

    def jump_pairs(self, shifted: Float[Tensor, "n d_model"]) -> JumpPairs | None:
        """Return active and near pairs where sums over them are faster than dense products, else None."""
        given = (shifted, self.W_enc, self.b_enc, self.threshold.detach(), self.bandwidth)
        if loops := DEVICE_LOOPS.fitting(shifted, self.W_enc):
            return jump_pairs_on_device(loops, *given)
        return jump_pairs(*given) if compiled_loops_fit(shifted, self.W_enc) else None

    @torch.no_grad()
    def active_pairs(self, x: Float[Tensor, "n d_model"]) -> Pairs:
        """Return the features of each token that exceed their thresholds, with values of either sign."""
        found = self.jump_pairs(self.shifted(x))
        return super().active_pairs(x) if found is None else found.active

    def reconstruct(self, x: Float[Tensor, "n d_model"]) -> Reconstruction:
        """Reconstruct, with an L0 whose gradient reaches thresholds; by active features where faster."""
        shifted = self.shifted(x)
        # Sums over pairs take a negative value for one that is switched off.
        found = self.jump_pairs(shifted) if self.below_zero is None else None
        if found is None:
            return self.reconstruct_densely(x)
        x_hat, l0 = SparseJumpReLU.apply(
            shifted, self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.threshold, found,
            self.bandwidth, self.subtract_decoder_bias, self._keeper(),
        )  # fmt: skip
        return Reconstruction(x_hat, l0, count_active(found.active, self.d_sae))

    def reconstruct_densely(self, x: Float[Tensor, "n d_model"]) -> Reconstruction:
        """Do what `reconstruct` does by dense products and autograd."""
        pre, threshold = self.pre_activations(x), self.threshold
        active = Step.apply(pre, threshold, self.bandwidth)
        x_hat = self.decode(JumpReLU.apply(pre, threshold, self.bandwidth))
        firings = active.detach().sum(dim=0).long()
        return Reconstruction(x_hat, active.sum() / x.shape[0], firings)

    @torch.no_grad()
    def rescale_input(self, factor: float) -> None:
        """Change the units, those of the thresholds included."""
        super().rescale_input(factor)
        self._scale_threshold(torch.tensor(factor))

    @torch.no_grad()
    def fold_decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Bring the rows of the decoder to unit norm; thresholds take their norms too."""
        factors = super().fold_decoder_norms()
        self._scale_threshold(factors)
        return factors

    @torch.no_grad()
    def _scale_threshold(self, factors: Tensor) -> None:
        self.log_threshold.add_(factors.log())
        if self.below_zero is not None:
            self.below_zero = self.below_zero * factors

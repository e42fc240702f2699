"""Adam for dictionaries: keeps decoder rows at unit norm, and writes no gradient of a sparse dictionary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from vlmdiff.dictionaries.loops import DEVICE_LOOPS, compiled_loops_fit
from vlmdiff.dictionaries.modules import Dictionary
from vlmdiff.dictionaries.pairs import PairGradients, arrays, by_feature, totals_by_feature
from vlmdiff.kernels.adam import BLOCK, update_features, update_offset
from vlmdiff.kernels.norms import square_norms
from vlmdiff.kernels.pair_sums import group_by_feature

# As in torch.nn.utils.clip_grad_norm_.
CLIP_EPS = 1e-6


class DictionaryAdam(torch.optim.Adam):
    """Adam with the constraint that decoder rows have unit norm.

    The decoder's gradient loses its part along the rows before the step, and the rows are brought back to
    unit norm after it. A dictionary in float32 on a CPU, or on a GPU that runs Triton's loops, is updated
    feature by feature from its active pairs (`kernels.adam`, `kernels.device`); its encoder is then held
    column by column in memory. State and results are those of `torch.optim.Adam` up to rounding.

    Args:
        dictionary: whose parameters are optimised.
        lr: learning rate.
        betas: decay of the two moments.
        alone: no other process has a share in the gradients, so that they need not be written out.
        clip_norm: largest norm of the gradient of all parameters together, after the projection; a longer
            one is shortened to it. None: any.
        frozen_decoder: leave the decoder as it is; its gradient still counts for `clip_norm`.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        alone: bool = True,
        clip_norm: float | None = None,
        frozen_decoder: bool = False,
    ) -> None:
        super().__init__(dictionary.parameters(), lr=lr, betas=betas, fused=True)
        self.dictionary, self.clip_norm = dictionary, clip_norm
        self.kept_decoder = dictionary.W_dec.detach().clone() if frozen_decoder else None
        four = {dictionary.W_enc, dictionary.b_enc, dictionary.W_dec, dictionary.b_dec}
        self.has_others = any(one not in four for one in dictionary.parameters())
        # Values that the compiled loops left without a number in the last step; None if torch took the step.
        self._broken: int | Tensor | None = None
        weights = list(dictionary.parameters())
        self.loops = DEVICE_LOOPS.fitting(*weights)
        dictionary.defers = alone and (compiled_loops_fit(*weights) or self.loops is not None)
        if dictionary.defers:
            hold_by_column(dictionary.W_enc)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see `torch.optim.Adam.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found = self.dictionary.take_pairs()
        if found is None:
            self.dictionary.project_decoder_gradient()
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), self.clip_norm)
            super().step()
            self.dictionary.normalise_decoder()
            self._broken = None
        else:
            step = self._step_features if self.loops is None else self._step_on_device
            step(found)
            if self.has_others:
                super().step()
        if self.kept_decoder is not None:
            self.dictionary.W_dec.copy_(self.kept_decoder)
        return loss

    def is_finite(self) -> Bool[Tensor, ""]:
        """Tell whether all weights and second moments, and all thresholds, are finite after the last step.

        The compiled loops have counted while they wrote; what torch has updated is looked at here, without a
        word to the host.
        """
        moved = [one for one in self.dictionary.parameters() if self._broken is None or one.grad is not None]
        squares = [self.state[one]["exp_avg_sq"] for one in moved]
        thresholds = [self.dictionary.threshold] if self.dictionary.kind == "jumprelu" else []
        largest = torch.nn.utils.get_total_norm([*moved, *squares, *thresholds], torch.inf)
        broken = torch.as_tensor(0 if self._broken is None else self._broken, device=largest.device)
        return largest.isfinite() & (broken == 0)

    def _step_features(self, found: PairGradients) -> None:
        """Update the encoder, the decoder and their biases."""
        dictionary = self.dictionary
        matrices = self._moved(dictionary.W_enc, by_column=True), self._moved(dictionary.W_dec)
        b_enc, b_dec = self._moved(dictionary.b_enc), self._moved(dictionary.b_dec)
        settings = tuple(np.float32(one) for one in self._settings())
        offsets = np.empty((-(-dictionary.d_sae // BLOCK), dictionary.d_model), np.float32)
        begins, columns, values = arrays(found.pairs.begins, found.pairs.columns, found.pairs.values)
        grouping = group_by_feature(begins, columns, values, dictionary.d_sae)
        products, x, gradient = arrays(*self._clipped(found, grouping))
        broken = update_features(grouping, products, values, x, gradient, *matrices, b_enc, settings, offsets)
        broken += update_offset(
            gradient[: found.biased], offsets, dictionary.subtract_decoder_bias, b_dec, settings
        )
        self._broken = int(broken)

    def _step_on_device(self, found: PairGradients) -> None:
        """Do what `_step_features` does on a GPU, without waiting for it."""
        dictionary, loops = self.dictionary, self.loops
        encoder = self._moments(dictionary.W_enc, by_column=True)
        decoder, b_enc, b_dec = map(self._moments, (dictionary.W_dec, dictionary.b_enc, dictionary.b_dec))
        settings = self._settings()
        order, tokens, begins = by_feature(found.pairs, dictionary.d_sae)
        grouping = (begins, order, tokens)
        x, gradient, products = found.x.contiguous(), found.gradient.contiguous(), found.products
        biases = totals_by_feature(products, (order, tokens, begins))
        offset = found.offset_gradient.sum(dim=0)
        if dictionary.subtract_decoder_bias:
            offset = offset - encoder[0].T @ biases
        if self.clip_norm is not None:
            squares = loops.square_norms(grouping, products, found.pairs.values, x, gradient, decoder[0])
            factor = self._factor(squares.sum(dtype=torch.float64) + offset.double().square().sum())
            products, gradient, offset = products * factor, gradient * factor, offset * factor
        broken = loops.update_features(
            grouping, products, found.pairs.values, x, gradient, encoder, decoder, b_enc, settings
        )
        self._broken = broken + adam_vector(*b_dec, offset, *settings)

    def _factor(self, squares: Tensor) -> Tensor:
        """Return by what all gradients are shortened, and shorten those that are written out.

        Args:
            squares: () squared norm of the others.
        """
        others = [one.grad for one in self.dictionary.parameters() if one.grad is not None]
        norm = (squares + sum(one.double().square().sum() for one in others)).sqrt()
        factor = (self.clip_norm / (norm + CLIP_EPS)).clamp(max=1.0).float()
        for one in others:
            one.mul_(factor)
        return factor

    def _clipped(
        self, found: PairGradients, grouping: tuple[np.ndarray, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch's products, inputs and gradients, scaled so that the whole gradient is not too long.

        All gradients are linear in products and gradients of the reconstruction, so that scaling these scales
        them. Gradients that are written out are scaled in place.
        """
        if self.clip_norm is None:
            return found.products, found.x, found.gradient
        others = [one.grad for one in self.dictionary.parameters() if one.grad is not None]
        squares = self._squared_norm(found, grouping) + sum(
            float(one.double().square().sum()) for one in others
        )
        factor = min(1.0, self.clip_norm / (squares**0.5 + CLIP_EPS))
        for one in others:
            one.mul_(factor)
        return found.products * factor, found.x, found.gradient * factor

    def _squared_norm(self, found: PairGradients, grouping: tuple[np.ndarray, ...]) -> float:
        """Return the squared norm of the gradients of both matrices and biases, which are not written out."""
        dictionary = self.dictionary
        biases = torch.zeros(dictionary.d_sae)
        squares = np.empty(-(-dictionary.d_sae // BLOCK))
        given = arrays(found.products, found.pairs.values, found.x, found.gradient, dictionary.W_dec, biases)
        square_norms(grouping, *given, squares)
        offset = found.offset_gradient.sum(dim=0, dtype=torch.float64)
        if dictionary.subtract_decoder_bias:
            offset -= dictionary.W_enc @ biases
        return float(squares.sum() + offset.square().sum())

    def _settings(self) -> tuple[float, ...]:
        """Return (beta1, beta2, rate, root, eps) of the step that was counted, as the loops take them."""
        group, time = self.param_groups[0], float(self.state[self.dictionary.W_dec]["step"])
        (beta1, beta2), rate = group["betas"], float(group["lr"])
        return beta1, beta2, rate / (1 - beta1**time), (1 - beta2**time) ** -0.5, group["eps"]

    def _moved(self, weights: Tensor, by_column: bool = False) -> tuple[np.ndarray, ...]:
        """Count a step of a parameter; return it and its moments as arrays, a matrix as (d_sae, d_model)."""
        return tuple(one.numpy() for one in self._moments(weights, by_column))

    def _moments(self, weights: Tensor, by_column: bool = False) -> tuple[Tensor, ...]:
        """Count a step of a parameter; return it and its moments, a matrix as (d_sae, d_model)."""
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        state["step"] += 1
        whole = (weights, state["exp_avg"], state["exp_avg_sq"])
        for tensor in whole if by_column else ():
            hold_by_column(tensor)
        return tuple(one.detach().T if by_column else one.detach() for one in whole)


def adam_vector(
    weights: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    beta1: float,
    beta2: float,
    rate: float,
    root: float,
    eps: float,
) -> Tensor:
    """Update a vector and its moments as `kernels.adam.adam_row` does; return how many are not finite."""
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    weights.sub_(rate * first / (second.sqrt() * root + eps))
    return (~(weights.isfinite() & second.isfinite())).sum()


def hold_by_column(matrix: Tensor) -> None:
    """Lay a matrix out column by column in memory, in place."""
    if not matrix.T.is_contiguous():
        matrix.data = matrix.detach().T.contiguous().T

"""Adam for dictionaries: keeps decoder rows at unit norm, and writes no gradient of a sparse dictionary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmdiff.dictionaries.modules import Dictionary
from vlmdiff.dictionaries.pairs import PairGradients, arrays, compiles
from vlmdiff.kernels.adam import BLOCK, update_features, update_offset
from vlmdiff.kernels.compiled import torch_threads
from vlmdiff.kernels.pairs import group_by_feature


class DictionaryAdam(torch.optim.Adam):
    """Adam with the constraint that decoder rows have unit norm.

    The decoder's gradient loses its part along the rows before the step, and the rows are brought back to
    unit norm after it. A dictionary on a CPU in float32 is updated feature by feature from its active pairs
    (`vlmdiff.kernels.adam`); its encoder is then held column by column in memory. State and results are those
    of `torch.optim.Adam` up to rounding.

    Args:
        dictionary: whose parameters are optimised.
        lr: learning rate.
        betas: decay of the two moments.
        alone: no other process has a share in the gradients, so that they need not be written out.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        alone: bool = True,
    ) -> None:
        super().__init__(dictionary.parameters(), lr=lr, betas=betas, fused=True)
        self.dictionary = dictionary
        four = {dictionary.W_enc, dictionary.b_enc, dictionary.W_dec, dictionary.b_dec}
        self.has_others = any(one not in four for one in dictionary.parameters())
        dictionary.defers = alone and compiles(*dictionary.parameters())
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
            super().step()
            self.dictionary.normalise_decoder()
        else:
            self._step_features(found)
            if self.has_others:
                super().step()
        return loss

    def _step_features(self, found: PairGradients) -> None:
        """Update the encoder, the decoder and their biases."""
        dictionary, group = self.dictionary, self.param_groups[0]
        matrices = self._moved(dictionary.W_enc, by_column=True), self._moved(dictionary.W_dec)
        b_enc, b_dec = self._moved(dictionary.b_enc), self._moved(dictionary.b_dec)
        time = float(self.state[dictionary.W_dec]["step"])
        (beta1, beta2), rate = group["betas"], float(group["lr"])
        scaled = (beta1, beta2, rate / (1 - beta1**time), (1 - beta2**time) ** -0.5, group["eps"])
        settings = tuple(np.float32(one) for one in scaled)
        offsets = np.empty((-(-dictionary.d_sae // BLOCK), dictionary.d_model), np.float32)
        begins, columns, values = arrays(found.pairs.begins, found.pairs.columns, found.pairs.values)
        products, x, gradient = arrays(found.products, found.x, found.gradient)
        with torch_threads():
            grouping = group_by_feature(begins, columns, values, dictionary.d_sae)
            update_features(grouping, products, values, x, gradient, *matrices, b_enc, settings, offsets)
        update_offset(gradient, offsets, dictionary.subtract_decoder_bias, b_dec, settings)

    def _moved(self, weights: Tensor, by_column: bool = False) -> tuple[np.ndarray, ...]:
        """Count a step of a parameter; return it and its moments as arrays, a matrix as (d_sae, d_model)."""
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        state["step"] += 1
        whole = (weights, state["exp_avg"], state["exp_avg_sq"])
        for tensor in whole if by_column else ():
            hold_by_column(tensor)
        return tuple((one.detach().T if by_column else one.detach()).numpy() for one in whole)


def hold_by_column(matrix: Tensor) -> None:
    """Lay a matrix out column by column in memory, in place."""
    if not matrix.T.is_contiguous():
        matrix.data = matrix.detach().T.contiguous().T

"""Every operation of a dictionary in float32 on the device against plain dense products in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from outcomes import Row, Setting, at_most
from torch import Tensor

from vlmdiff.dictionaries.evaluation import Score
from vlmdiff.dictionaries.initial import common_threshold
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.optimiser import DictionaryAdam

NAME = "operations"
K, STEPS, RATE, BANDWIDTH = 16, 20, 1e-3, 0.02
# Float32 sums of thousands of products; TF32 or 16-bit sums would miss it by far.
ROUNDING = 1e-4
Shape = tuple[int, int, int]  # tokens, d_model, d_sae
SHAPE, SMALL = (2048, 512, 4096), (160, 32, 256)


def rows(setting: Setting) -> list[Row]:
    """Compare TopK and JumpReLU, with and without `b_dec` subtracted from the encoder's input."""
    found, shape = [], SMALL if setting.small else SHAPE
    for subtract in (True, False):
        for kind in ("topk", "jumprelu"):
            size = f"{kind}, b_dec {'subtracted' if subtract else 'not subtracted'}"
            dictionary, x = start(kind, subtract, shape, setting.device)
            found += [at_most(NAME, size, *one) for one in differences(dictionary, x)]
            found.append(
                at_most(NAME, size, "weights after 20 steps", trajectory(kind, subtract, shape, x), 1e-3)
            )
    return found


def start(kind: str, subtract: bool, shape: Shape, device: str) -> tuple[Dictionary, Tensor]:
    """Return a dictionary with random weights and tokens `(n, d_model)`, the same on every device."""
    generator, (n, d_model, d_sae) = torch.Generator().manual_seed(0), shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(n, d_model)
    if kind == "topk":
        dictionary: Dictionary = TopKDictionary(d_model, d_sae, K, subtract)
    else:
        dictionary = JumpReLUDictionary(d_model, d_sae, BANDWIDTH, subtract)
    with torch.no_grad():
        dictionary.W_dec.copy_(normal(d_sae, d_model))
        dictionary.normalise_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec.T + 0.1 * normal(d_model, d_sae) / d_model**0.5)
        dictionary.b_enc.copy_(0.1 * normal(d_sae))
        dictionary.b_dec.copy_(0.1 * normal(d_model))
        if kind == "jumprelu":
            dictionary.log_threshold.fill_(common_threshold(dictionary, x, K).log())
    return dictionary.to(device), x.to(device)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest expected value."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max())


def differences(dictionary: Dictionary, x: Tensor) -> Iterator[tuple[str, float, float]]:
    """Yield what was compared, its error, and the limit."""
    result = dictionary.reconstruct(x)
    loss = fraction_unexplained(x, result.x_hat)
    if dictionary.kind == "jumprelu":
        loss = loss + (result.l0 / K - 1).square()
    loss.backward()
    expected = Expected(dictionary, x)
    yield "selection: pairs that differ beyond rounding", expected.wrong_pairs(dictionary, x), 0
    yield "reconstruction", error(result.x_hat, expected.x_hat), ROUNDING
    yield "loss", error(loss.detach(), expected.loss), ROUNDING
    yield "firings", error(result.firings, expected.active.sum(0)), 1e-3
    for name, gradient in expected.gradients.items():
        yield f"gradient of {name}", error(dictionary.get_parameter(name).grad, gradient), ROUNDING
    dictionary.zero_grad()
    with torch.no_grad():
        z = dictionary.encode(x)
        yield "dense activations", error(z, expected.z), ROUNDING
        firing = z.nonzero()[:, 1]
        score = Score.of(x, dictionary.b_dec, dictionary.decode(z), firing, dictionary.d_sae).metrics()
        centred = x.double() - x.double().mean(0)
        fvu = (x.double() - expected.x_hat).square().sum() / centred.square().sum()
        yield "held-out FVU", abs(score["fvu"] / float(fvu) - 1), ROUNDING


class Expected:
    """Forward and backward pass in float64, on the pairs that the dictionary itself finds active.

    Taking its pairs separates rounding from ties; `wrong_pairs` judges the pairs.
    """

    def __init__(self, dictionary: Dictionary, x: Tensor) -> None:
        weights = {name: one.detach().double() for name, one in dictionary.named_parameters()}
        leaves = {name: one.requires_grad_() for name, one in weights.items()}
        x = x.double()
        shifted = x - leaves["b_dec"] if dictionary.subtract_decoder_bias else x
        self.pre = shifted @ leaves["W_enc"] + leaves["b_enc"]
        pairs = dictionary.active_pairs(x.float())
        self.active = torch.zeros_like(self.pre, dtype=torch.bool)
        fires = pairs.values > 0
        self.active[pairs.tokens()[fires], pairs.columns[fires]] = True
        self.z = self.pre * self.active
        self.z.retain_grad()
        self.x_hat = self.z @ leaves["W_dec"] + leaves["b_dec"]
        self.loss = (x - self.x_hat).square().sum() / (x - x.mean(0)).square().sum()
        self.loss.backward()
        self.gradients = {name: one.grad for name, one in leaves.items() if one.grad is not None}
        if dictionary.kind == "jumprelu":
            self._add_thresholds(dictionary, leaves["log_threshold"].detach().exp())
        self.z, self.x_hat, self.loss = self.z.detach(), self.x_hat.detach(), self.loss.detach()

    def _add_thresholds(self, dictionary: Dictionary, threshold: Tensor) -> None:
        """Add the sparsity penalty and the gradient through the jump (arXiv 2407.14435, section 3)."""
        mean = self.active.sum() / len(self.active)
        near = (self.pre.detach() - threshold).abs() < BANDWIDTH / 2
        by_jump = (near * self.z.grad).sum(0) * threshold
        by_l0 = near.sum(0) * 2 * (mean / K - 1) / K / len(self.active)
        self.gradients["log_threshold"] = -(by_jump + by_l0) / BANDWIDTH * threshold
        self.loss = self.loss + (mean / K - 1).square()

    def wrong_pairs(self, dictionary: Dictionary, x: Tensor) -> float:
        """Count pairs that are active, or not, although float64 says otherwise by more than rounding."""
        pre = self.pre.detach()
        if dictionary.kind == "topk":
            border = pre.topk(K, dim=1).values[:, -1:].clamp(min=0)
        else:
            border = dictionary.threshold.detach().double()
        slack = ROUNDING * pre.abs().max()
        wrong = (pre > border + slack) & ~self.active | (pre < border - slack) & self.active
        return float(wrong.sum())


def trajectory(kind: str, subtract: bool, shape: Shape, x: Tensor) -> float:
    """Return the error of all weights after some steps of Adam, against float64 and dense autograd.

    Directions whose gradient is nearly nothing are as good as random under Adam, so weights are compared
    by their root mean squared difference.
    """
    fast, _ = start(kind, subtract, shape, x.device.type)
    slow = start(kind, subtract, shape, x.device.type)[0].double()
    adam = DictionaryAdam(fast, RATE)
    plain = torch.optim.Adam(slow.parameters(), lr=RATE)
    for part in x.split(len(x) // STEPS)[:STEPS]:
        step(fast, part, adam.zero_grad)
        adam.step()
        dense_step(slow, part.double(), plain)
    errors = []
    for (_, one), (_, two) in zip(fast.named_parameters(), slow.named_parameters()):
        errors.append(float((one.double() - two).square().mean() / two.square().mean()) ** 0.5)
    return max(errors)


def step(dictionary: Dictionary, x: Tensor, zero_grad: object) -> None:
    """Bring the loss's gradients to a dictionary by its fast path."""
    zero_grad()
    result = dictionary.reconstruct(x)
    loss = fraction_unexplained(x, result.x_hat)
    if dictionary.kind == "jumprelu":
        loss = loss + (result.l0 / K - 1).square()
    loss.backward()


def dense_step(dictionary: Dictionary, x: Tensor, adam: torch.optim.Adam) -> None:
    """Take the same step densely, with the constraint written out."""
    adam.zero_grad()
    if dictionary.kind == "jumprelu":
        result = dictionary.reconstruct_densely(x)
        loss = fraction_unexplained(x, result.x_hat) + (result.l0 / K - 1).square()
    else:
        loss = fraction_unexplained(x, dictionary(x))
    loss.backward()
    with torch.no_grad():
        rows_, gradient = dictionary.W_dec, dictionary.W_dec.grad
        gradient -= (gradient * rows_).sum(1, keepdim=True) * rows_
    adam.step()
    with torch.no_grad():
        dictionary.W_dec.div_(dictionary.W_dec.norm(dim=1, keepdim=True))

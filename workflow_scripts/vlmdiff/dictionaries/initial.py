"""Where a dictionary starts from: random directions, or the weights of an earlier stage."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.recipe import Recipe, Sampling
from vlmdiff.dictionaries.weights import DictionaryError, load_config_file

if TYPE_CHECKING:
    from vlmdiff.activations.store import ActivationStore
    from vlmdiff.extraction.stream import ActivationStream

log = logging.getLogger(__name__)
SAMPLE_TOKENS = 16_384
# In scaled units, where residuals have a spread of about 1.
LEAST_THRESHOLD = 1e-3
# Variances of two models that differ by more are worth a warning.
UNEQUAL = 4.0


def sample_tokens(store: ActivationStore | ActivationStream, recipe: Recipe | Sampling, seed: int) -> Tensor:
    """Return shuffled residuals `(about 16,384, d_model)` of the tokens that the loss sees."""
    batches = -(-SAMPLE_TOKENS // recipe.batch_tokens)
    return torch.cat(list(islice(store.batches(recipe.tokens, recipe.batch_tokens, seed), batches)))


def estimate_scale(sample: Tensor) -> float:
    """Return the factor that brings the root mean squared distance of residuals from their mean to about 1.

    These are the units of arXiv 2408.05147, in which learning rates and the bandwidth of JumpReLU
    are commonly given. Rounded to a power of two, so that folding it into the weights is exact.

    Raises:
        DictionaryError: the residuals do not vary, or are not finite.
    """
    centred = sample.double() - sample.double().mean(dim=0)
    spread = float(centred.square().sum(dim=1).mean().sqrt())
    if not math.isfinite(spread) or spread == 0:
        raise DictionaryError(
            f"the activations have a spread of {spread}, expected a positive finite number; "
            "remake the activation shards, or store them as bfloat16 if float16 overflows"
        )
    return inverse_power_of_two(spread)


def warn_of_unequal_models(sample: Tensor, models: int) -> None:
    """Log a warning if one model's residuals, side by side with another's, vary far more than those."""
    parts = sample.double().chunk(models, dim=1)
    variances = [float((part - part.mean(dim=0)).square().sum(dim=1).mean()) for part in parts]
    if max(variances) > UNEQUAL * min(variances):
        log.warning(
            "the residual streams of the models have variances of %s: the loss weighs the larger one %.0f "
            "times as much, and features of the other one may be missed",
            " and ".join(f"{one:.4g}" for one in variances),
            max(variances) / max(min(variances), torch.finfo(torch.float64).tiny),
        )


def inverse_power_of_two(size: float) -> float:
    """Return the power of two nearest to the inverse of a positive number, in octaves."""
    return 2.0 ** round(-math.log2(size))


@torch.no_grad()
def random_start(recipe: Recipe, sample: Tensor, seed: int, models: int = 1) -> Dictionary:
    """Return unit-norm random decoder rows, the encoder their transpose, and the mean as decoder bias.

    TopK's encoder has the factor with which it reconstructs the sample best.

    JumpReLU thresholds start where the mean L0 over the sample equals the target, because they
    move slowly from anywhere else.

    Args:
        recipe: gives the architecture.
        sample: scaled residuals `(n, d_model)`.
        seed: of the random rows.
        models: whose residuals lie side by side in the sample. Each row is the same for all of them: that
            models differ has to be learned.
    """
    dictionary = recipe.build(sample.shape[1])
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(recipe.d_sae, sample.shape[1] // models, generator=generator)
    dictionary.W_dec.copy_(rows.repeat(1, models))
    dictionary.normalise_decoder()
    dictionary.W_enc.copy_(dictionary.W_dec.T)
    dictionary.b_dec.copy_(sample.mean(dim=0))
    if isinstance(dictionary, JumpReLUDictionary):
        dictionary.log_threshold.fill_(common_threshold(dictionary, sample, recipe.k).log())
    else:
        dictionary.W_enc.mul_(best_factor(dictionary, sample))
    return dictionary


def best_factor(dictionary: Dictionary, sample: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
    """Return the factor on activations with which a dictionary reconstructs a sample best (least squares).

    Random rows that are chosen together point the same way, and overshoot by their sum. A factor changes no
    choice of TopK.

    Args:
        dictionary: with an encoder's bias of zero, in the units of the sample.
        sample: scaled residuals; the first 2,048 are looked at.
    """
    x = sample[:2048]
    rest = dictionary(x) - dictionary.b_dec
    factor = (rest * (x - dictionary.b_dec)).sum() / rest.square().sum()
    return factor if factor > 0 else torch.ones_like(factor)


@torch.no_grad()
def common_threshold(dictionary: Dictionary, sample: Float[Tensor, "n d_model"], k: int) -> Float[Tensor, ""]:
    """Return the threshold that `k` pre-activations a token exceed on average, the same for all features.

    Args:
        dictionary: in the units of the sample.
        sample: scaled residuals; the first 2,048 are looked at.
        k: the target L0.
    """
    pre = dictionary.pre_activations(sample[:2048]).flatten()
    rank = max(1, round(pre.numel() * (1 - k / dictionary.d_sae)))
    return pre.kthvalue(rank).values.clamp_min(LEAST_THRESHOLD)


def load_initial(recipe: Recipe, folder: Path, d_model: int) -> Dictionary:
    """Load the dictionary of an earlier stage and check that it has this recipe's shape.

    Raises:
        DictionaryError: it has another shape, or decoder rows of other than unit norm.
    """
    dictionary = load_dictionary(folder)
    found, expected = (dictionary.d_model, dictionary.d_sae), (d_model, recipe.d_sae)
    if found != expected:
        raise DictionaryError(
            f"{folder}: found (d_model, d_sae) = {found}, expected {expected}; start from a dictionary "
            "of the same shape, or change `architecture` in the config"
        )
    norms = dictionary.W_dec.norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise DictionaryError(
            f"{folder}: decoder rows have norms from {norms.min():.3g} to {norms.max():.3g}, expected 1 "
            f"({int((norms == 0).sum())} rows are zero: a feature without a direction has none that could "
            "turn). Start from a dictionary whose features all have a direction, or import it again"
        )
    return dictionary


def warn_of_other_prefixes(recipe: Recipe, folder: Path) -> None:
    """Log a warning if a Matryoshka dictionary starts from features that had other prefixes, or none."""
    told = load_config_file(folder).get("metadata", {}).get("prefixes")
    if recipe.prefixes and told != list(recipe.prefixes):
        log.warning(
            "%s was trained %s, and now %s features have to reconstruct by themselves: they will turn far "
            "towards what is general. Start from a Matryoshka dictionary of the same prefixes to tell what "
            "the data change",
            folder,
            f"in prefixes of {told}" if told else "without prefixes",
            list(recipe.prefixes),
        )


@torch.no_grad()
def warm_start(
    initial: Dictionary, recipe: Recipe, sample: Callable[[], Float[Tensor, "n d_model"]]
) -> Dictionary:
    """Return an earlier dictionary in this recipe's kind; whether it subtracts `b_dec` stays as it is.

    From JumpReLU to TopK, BatchTopK or Matryoshka the thresholds are dropped: the largest pre-activations
    count. From TopK to JumpReLU they start where the mean L0 over the sample is `k`. Thresholds of zero (ReLU
    features, or silent ones of published dictionaries) would stay there, since their logarithm is trained:
    they start at the least one instead, or with the others if there are no others.

    Args:
        initial: the earlier dictionary, in scaled units.
        recipe: gives the new kind, k and bandwidth.
        sample: returns scaled residuals, which are read only if thresholds are wanted.
    """
    if recipe.kind != "topk" and isinstance(initial, TopKDictionary):
        initial.fold_divisor()
    others = ("log_threshold", "below_zero")
    weights = {name: value for name, value in initial.state_dict().items() if name not in others}
    shape = (initial.d_model, initial.d_sae)
    if recipe.kind == "topk":
        divisor = weights.get("divisor")
        dictionary: Dictionary = TopKDictionary(*shape, recipe.k, initial.subtract_decoder_bias, divisor)
    elif recipe.kind != "jumprelu":
        own = replace(recipe, subtract_decoder_bias=initial.subtract_decoder_bias)
        dictionary = own.build(initial.d_model)
        weights["least"] = dictionary.least
    else:
        dictionary = JumpReLUDictionary(*shape, recipe.bandwidth, initial.subtract_decoder_bias)
        former = initial.log_threshold if isinstance(initial, JumpReLUDictionary) else None
        if former is None or not former.isfinite().any():
            threshold = common_threshold(initial, sample(), recipe.k)
            log.info(
                "the earlier dictionary has no thresholds; all start at %g for an L0 of %d",
                threshold,
                recipe.k,
            )
            former = threshold.log().repeat(initial.d_sae)
        elif not former.isfinite().all():
            zeros = ~former.isfinite()
            log.warning("%d thresholds are not positive; they start at %g", int(zeros.sum()), LEAST_THRESHOLD)
            former = torch.where(zeros, math.log(LEAST_THRESHOLD), former)
        weights["log_threshold"] = former
    # Without a copy: a dictionary takes a gigabyte at real size.
    dictionary.load_state_dict(weights, assign=True)
    return dictionary


def inherited_scale(folder: Path, scale_file: str | Path | None) -> float:
    """Return the input scale of a warm start.

    It is the one that the earlier dictionary notes, which files or config told at its import or at which it
    was trained; an estimate stands in where it notes none, or where the user asked for it by `scale_on`.

    Args:
        folder: the earlier dictionary.
        scale_file: what `estimate_input_scale` wrote, if anything.

    Raises:
        DictionaryError: neither tells one, or the file is damaged.
    """
    told = load_config_file(folder).get("metadata", {}).get("input_scale")
    scale, source = told, f"told by {folder}"
    if scale_file is not None:
        try:
            noted = json.loads(Path(scale_file).read_text())
            if told is None or noted.get("scale_on") is not None:
                scale, source = float(noted["input_scale"]), f"estimated in {scale_file}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DictionaryError(
                f"{scale_file}: holds no input_scale ({type(error).__name__}: {error}); delete the file and "
                "run snakemake again, which remakes it"
            ) from error
    if scale is None:
        raise DictionaryError(
            f"{folder}: names no metadata.input_scale, and trainings never estimate one for a warm start: "
            "those that are compared would differ in it. Name `scale_on` in the imported dictionary's entry"
        )
    log.info("input scale %g, %s", scale, source)
    return float(scale)


def start(
    store: ActivationStore | ActivationStream,
    recipe: Recipe,
    initial: str | Path,
    seed: int,
    scale_file: str | Path | None = None,
    sample_seed: int | None = None,
) -> tuple[Dictionary, float]:
    """Return the dictionary to train, in scaled units, and the scale of its input.

    Only a random start estimates a scale. A warm start inherits one, so that all that start from one
    dictionary are trained in the same units.

    Args:
        store: activations.
        recipe: gives the architecture.
        initial: `random`, or the folder of an earlier dictionary.
        seed: of random weights.
        scale_file: as for `inherited_scale`.
        sample_seed: of the tokens that are looked at; None: as `seed`.

    Raises:
        DictionaryError: the activations do not vary, or the initial dictionary does not fit or has no scale.
    """
    sample = cache(lambda: sample_tokens(store, recipe, seed if sample_seed is None else sample_seed))
    if initial == "random":
        scale = estimate_scale(sample())
        warn_of_unequal_models(sample(), store.models)
        return random_start(recipe, sample() * scale, seed, store.models), scale
    folder = Path(initial)
    dictionary = load_initial(recipe, folder, store.d_model)
    warn_of_other_prefixes(recipe, folder)
    scale = inherited_scale(folder, scale_file)
    dictionary.rescale_input(scale)
    return warm_start(dictionary, recipe, lambda: sample() * scale), scale

"""Where a dictionary starts from: random directions, or the weights of an earlier stage."""

from __future__ import annotations

import logging
import math
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.weights import DictionaryError, load_config_file

log = logging.getLogger(__name__)
SAMPLE_TOKENS = 16_384


def sample_tokens(store: ActivationStore, recipe: Recipe, seed: int) -> Tensor:
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
    return 2.0 ** round(-math.log2(spread))


@torch.no_grad()
def random_start(recipe: Recipe, sample: Tensor, seed: int) -> Dictionary:
    """Return unit-norm random decoder rows, the encoder their transpose, and the mean as decoder bias.

    JumpReLU thresholds start where the mean L0 over the sample equals the target, because they
    move slowly from anywhere else.

    Args:
        recipe: gives the architecture.
        sample: scaled residuals `(n, d_model)`.
        seed: of the random rows.
    """
    dictionary = recipe.build(sample.shape[1])
    generator = torch.Generator().manual_seed(seed)
    dictionary.W_dec.copy_(torch.randn(dictionary.W_dec.shape, generator=generator))
    dictionary.normalise_decoder()
    dictionary.W_enc.copy_(dictionary.W_dec.T)
    dictionary.b_dec.copy_(sample.mean(dim=0))
    if isinstance(dictionary, JumpReLUDictionary):
        pre = dictionary.pre_activations(sample[:2048]).flatten()
        rank = max(1, round(pre.numel() * (1 - recipe.k / recipe.d_sae)))
        dictionary.log_threshold.fill_(float(pre.kthvalue(rank).values.clamp_min(1e-3).log()))
    return dictionary


def warm_start(recipe: Recipe, folder: Path, d_model: int) -> Dictionary:
    """Load the dictionary of an earlier stage and check that it has this recipe's architecture.

    Raises:
        DictionaryError: it has another kind or shape, or decoder rows of other than unit norm.
    """
    dictionary = load_dictionary(folder)
    found = (dictionary.kind, dictionary.d_model, dictionary.d_sae, dictionary.subtract_decoder_bias)
    expected = (recipe.kind, d_model, recipe.d_sae, recipe.subtract_decoder_bias)
    if found != expected:
        raise DictionaryError(
            f"{folder}: found (kind, d_model, d_sae, subtract_decoder_bias) = {found}, expected {expected}; "
            "start from a dictionary of the same architecture, or change `architecture` in the config"
        )
    norms = dictionary.W_dec.norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise DictionaryError(
            f"{folder}: decoder rows have norms from {norms.min():.3g} to {norms.max():.3g}, expected 1; "
            "fold the norms into the encoder first"
        )
    if recipe.kind == "topk":
        dictionary.k = recipe.k
    else:
        dictionary.bandwidth = recipe.bandwidth
    return dictionary


def start(store: ActivationStore, recipe: Recipe, initial: str | Path, seed: int) -> tuple[Dictionary, float]:
    """Return the dictionary to train, in scaled units, and the scale of its input.

    A warm start keeps the scale of the dictionary that it starts from.
    """
    if initial == "random":
        sample = sample_tokens(store, recipe, seed)
        scale = estimate_scale(sample)
        return random_start(recipe, sample * scale, seed), scale
    folder = Path(initial)
    dictionary = warm_start(recipe, folder, store.d_model)
    scale = load_config_file(folder).get("metadata", {}).get("input_scale")
    if scale is None:
        scale = estimate_scale(sample_tokens(store, recipe, seed))
        log.info("%s names no input_scale; estimated %g from the activations", folder, scale)
    dictionary.rescale_input(scale)
    return dictionary, scale

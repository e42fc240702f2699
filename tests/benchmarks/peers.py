"""Training steps of other libraries, each through its own trainer where it has one that runs by itself."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor], object]


def hide_torchvision() -> None:
    """Let `import torchvision` fail cleanly: sparsify breaks beside one that was built for other devices."""
    if importlib.util.find_spec("torchvision") is not None:
        sys.modules["torchvision"] = None  # type: ignore[assignment]


def quietly(name: str) -> ModuleType:
    """Import a library that talks while it is imported."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(name)


def saelens_step(kind: str, d_model: int, d_sae: int, k: int, batch: int, **settings: Any) -> Step:
    """Return one step of SAELens' own trainer.

    Args:
        kind: topk, batchtopk or jumprelu.
        d_model, d_sae, k, batch: sizes.
        settings: of its training configuration; none are its defaults.
    """
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    fused = settings.pop("fused_adam", False)
    if kind == "topk":
        sae: Any = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_model, d_sae=d_sae, k=k, **settings))
    elif kind == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=d_model, d_sae=d_sae, k=k, **settings))
    else:
        sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(d_in=d_model, d_sae=d_sae, **settings))
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=batch,
        lr_end=3e-5,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    if fused:
        # Not a setting of theirs: what their step would be with torch's fast Adam.
        trainer.optimizer = torch.optim.Adam(sae.parameters(), lr=config.lr, betas=(0.9, 0.999), fused=True)

    def step(x: Tensor) -> object:
        found = trainer.step(x)
        trainer.n_training_steps += 1
        return found

    return step


def sparsify_step(d_model: int, d_sae: int, k: int) -> Step:
    """Return what sparsify's trainer does each step, with Adam in the place of its default optimiser."""
    hide_torchvision()
    quietly("sparsify")
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(d_model, SparseCoderConfig(num_latents=d_sae, k=k))
    adam = torch.optim.Adam(coder.parameters(), lr=3e-4, fused=True)

    def step(x: Tensor) -> object:
        adam.zero_grad()
        found = coder(x)
        found.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        coder.set_decoder_norm_to_unit_norm()
        return found.fvu

    return step


def dictionary_learning_step(d_model: int, d_sae: int, k: int, kind: str = "topk") -> Step:
    """Return one step of dictionary_learning's own trainer, of kind topk or batch_topk."""
    quietly("dictionary_learning")
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = (TopKTrainer if kind == "topk" else BatchTopKTrainer)(
        steps=10**6, activation_dim=d_model, dict_size=d_sae, k=k, layer=0, lm_name="none", lr=3e-4, seed=0
    )
    # Step 0 alone would compute a geometric median.
    return lambda x: trainer.update(1, x)


def plain_step(d_model: int, d_sae: int, k: int) -> Step:
    """Return a dense step by autograd with torch's fused Adam: the plain twin of ours."""
    from vlmdiff.dictionaries.loss import fraction_unexplained

    dictionary = started(d_model, d_sae, k)
    adam = torch.optim.Adam(dictionary.parameters(), lr=3e-4, fused=True)

    def step(x: Tensor) -> object:
        adam.zero_grad()
        loss = fraction_unexplained(x, dictionary(x))
        loss.backward()
        dictionary.project_decoder_gradient()
        adam.step()
        dictionary.normalise_decoder()
        return loss

    return step


def started(d_model: int, d_sae: int, k: int, kind: str = "topk") -> Any:
    """Return a TopK or BatchTopK dictionary of ours with random unit decoder rows."""
    from vlmdiff.dictionaries.batch_topk import BatchTopKDictionary
    from vlmdiff.dictionaries.modules import TopKDictionary

    dictionary = (TopKDictionary if kind == "topk" else BatchTopKDictionary)(d_model, d_sae, k)
    with torch.no_grad():
        dictionary.W_dec.normal_()
        dictionary.normalise_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec.T)
    return dictionary


def our_step(d_model: int, d_sae: int, k: int, kind: str = "topk", precision: str = "fp32") -> Step:
    """Return one step as the rule `train_dictionary` takes and checks it, Lightning's loop aside."""
    from vlmdiff.dictionaries.loss import fraction_unexplained
    from vlmdiff.dictionaries.optimiser import DictionaryAdam

    dictionary = started(d_model, d_sae, k, kind)
    dictionary.precision = precision
    adam = DictionaryAdam(dictionary, 3e-4)
    silent = torch.zeros(d_sae, dtype=torch.int64)

    def closure(x: Tensor) -> Tensor:
        adam.zero_grad()
        result = dictionary.reconstruct(x)
        loss = fraction_unexplained(x, result.x_hat)
        silent.add_(len(x)).masked_fill_(result.firings > 0, 0)
        loss.backward()
        return loss

    def step(x: Tensor) -> object:
        loss = adam.step(lambda: closure(x))
        return loss.isfinite() & adam.is_finite()

    return step

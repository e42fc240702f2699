"""The Lightning side of training a dictionary: loss, optimiser, schedule, data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vlmdiff.activations.shuffling import Share
from vlmdiff.dictionaries.auxiliary import auxiliary_size
from vlmdiff.dictionaries.collectives import (
    counted_over_all,
    fraction_of_all,
    process_count,
    squared_error_of_all,
)
from vlmdiff.dictionaries.modules import Dictionary, Reconstruction
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.recipe import Recipe

if TYPE_CHECKING:
    from vlmdiff.activations.store import ActivationStore
    from vlmdiff.extraction.stream import ActivationStream

    Activations = ActivationStore | ActivationStream


class DictionaryTask(pl.LightningModule):
    """Trains a dictionary on batches of residuals `(batch_tokens, d_model)`.

    Args:
        dictionary: what to train, in the units of `input_scale * x`.
        recipe: loss, optimiser and schedule.
        input_scale: factor on the raw residuals.
    """

    def __init__(self, dictionary: Dictionary, recipe: Recipe, input_scale: float):
        super().__init__()
        self.dictionary, self.recipe, self.input_scale = dictionary, recipe, input_scale
        # Whether a checkpoint of the last step would be of use (`health.Health`).
        self.worth_keeping = True
        self.register_buffer("silent_tokens", torch.zeros(dictionary.d_sae, dtype=torch.int64))

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of a batch, with its parts for the log."""
        x = batch * self.input_scale
        result = counted_over_all(self.dictionary.reconstruct(x))
        fvu = fraction_of_all(x, result.x_hat)
        loss = self.reconstruction_loss(x, result, fvu)
        if self.dictionary.kind == "jumprelu":
            loss = (
                loss + self.recipe.penalty_weight(self.global_step) * (result.l0 / self.recipe.k - 1).square()
            )
        auxiliary = self.auxiliary_loss(x, result.x_hat)
        self.silent_tokens.add_(len(x) * process_count()).masked_fill_(result.firings > 0, 0)
        parts = {"fvu": fvu.detach(), "l0": result.l0.detach()}
        if auxiliary is None:
            return {"loss": loss, "auxiliary": torch.zeros_like(parts["fvu"]), **parts}
        loss = loss + self.recipe.auxk_coefficient * auxiliary
        return {"loss": loss, "auxiliary": auxiliary.detach(), **parts}

    def reconstruction_loss(self, x: Tensor, result: Reconstruction, fvu: Tensor) -> Tensor:
        """Return the loss of a reconstruction, of several the mean; `fvu` is that of the whole one."""
        error = fraction_of_all if self.recipe.reconstruction == "fvu" else squared_error_of_all
        whole = fvu if error is fraction_of_all else error(x, result.x_hat)
        if not result.shorter:
            return whole
        return torch.stack([*(error(x, x_hat) for x_hat in result.shorter), whole]).mean()

    def auxiliary_loss(self, x: Tensor, x_hat: Tensor) -> Tensor | None:
        """Return the fraction of the error's variance that the strongest dead features leave (`auxiliary`).

        While fewer are dead than may be active a token, it weighs less, in proportion; None if none are.
        """
        if not self.recipe.auxk_coefficient:
            return None
        features = self.dead().nonzero().flatten()
        if not len(features):
            return None
        most = auxiliary_size(self.dictionary.d_model)
        rest = self.dictionary.reconstruct_by(x, features, min(most, len(features)))
        return min(1.0, len(features) / most) * fraction_of_all((x - x_hat).detach(), rest)

    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Tell which features have not fired for `dead_after_tokens`."""
        return self.silent_tokens >= self.recipe.dead_after_tokens

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Choose the precision of a step's products on a GPU; a model that is streamed from keeps its own."""
        if batch.device.type == "cuda":
            torch.set_float32_matmul_precision("highest" if self.recipe.precision == "fp32" else "high")

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Free gradients: layers that take turns need memory for those of one layer alone."""
        self.dictionary.zero_grad(set_to_none=True)
        if batch.device.type == "cuda":
            torch.set_float32_matmul_precision("highest")

    def configure_optimizers(self) -> dict[str, Any]:
        """Return Adam, and the schedule that is stepped with it."""
        betas = (0.0, 0.999) if self.dictionary.kind == "jumprelu" else (0.9, 0.999)
        recipe = self.recipe
        optimizer = DictionaryAdam(
            self.dictionary,
            recipe.learning_rate,
            betas,
            recipe.processes == 1,
            recipe.gradient_clip_norm,
            recipe.decoder == "frozen",
        )
        # A bound method would go into checkpoints, with the recipe; a function does not.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ShuffledBatches(IterableDataset):
    """Endless shuffled batches of one layer's tokens, from a given step on: one process's share of them."""

    def __init__(self, store: Activations, recipe: Recipe, seed: int, start_step: int, process: int):
        self.store, self.recipe, self.seed = store, recipe, seed
        self.start_step, self.process = start_step, process

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches `(batch_tokens / processes, d_model)` in 16 bits."""
        recipe = self.recipe
        share = Share(self.process, recipe.processes)
        return self.store.stored_batches(
            recipe.tokens, recipe.batch_tokens, self.seed, self.start_step, share
        )


class ActivationDataModule(pl.LightningDataModule):
    """Hands one layer's tokens to the trainer; a resumed training goes on where it stopped."""

    def __init__(self, store: Activations, recipe: Recipe, seed: int):
        super().__init__()
        self.store, self.recipe, self.seed = store, recipe, seed

    def train_dataloader(self) -> DataLoader:
        """Return the batches that follow the steps done so far."""
        trainer = self.trainer
        batches = ShuffledBatches(
            self.store, self.recipe, self.seed, trainer.global_step, trainer.global_rank
        )
        return DataLoader(batches, batch_size=None, pin_memory=torch.cuda.is_available())

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        """Widen a batch to float32 where it is used: half of the bytes go over to a device."""
        return batch.float()

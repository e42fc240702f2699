"""Whether a training still leads anywhere: finite at every step, and not far worse than no dictionary.

The mean of the tokens reaches a fraction of variance unexplained (FVU) of 1. Tokens of the data in the places
of others, drawn at random, reach 2 on average: whoever is beyond that has lost the data. A training may start
there (a warm start in other data) and may pass through (a bad first step), but may not end there: the FVU of
the start excuses steps on the way, never the result. Whoever starts at or below 1 may not end above it by
more than the noise of one step's tokens.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vlmdiff.dictionaries.collectives import fraction_of_all, noise_of_fraction
from vlmdiff.dictionaries.task import DictionaryTask

log = logging.getLogger(__name__)
# FVU of the mean of the tokens, and of a random token of the data, in the place of each.
MEAN_TOKEN, ANOTHER_TOKEN = 1.0, 2.0
# So many steps on end, and at least so large a part of the training, may be beyond the limit.
PATIENCE_STEPS, PATIENCE_SHARE = 100, 0.1
# So many standard errors of one step's FVU are noise.
NOISE_ERRORS = 3.0


class TrainingDivergedError(ArithmeticError):
    """A training's numbers are not finite any more, or far worse than those of no dictionary."""


class Health(pl.Callback):
    """Stops a training that has diverged, before anything of it is saved.

    Meanwhile `task.worth_keeping` says whether the last step that was judged is good.

    Must come first among the callbacks. On an accelerator a step is judged while the next one runs, so that
    the device need not wait; steps after which something is saved are judged at once.

    Args:
        layer: decoder block, for messages.
    """

    def __init__(self, layer: int):
        self.layer = layer
        self.first: float | None = None
        self.streak = 0
        self.pending: deque[tuple[int, Tensor, Tensor]] = deque()

    @property
    def limit(self) -> float:
        """Return the FVU beyond which a step on the way is bad: that of a random token, or a higher start."""
        return max(ANOTHER_TOKEN, self.first or 0.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: DictionaryTask, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        """Judge this step or the one before; after the last step judge what it has led to as well.

        Raises:
            TrainingDivergedError: naming step, layer, value, cause and what to do.
        """
        finite = trainer.optimizers[0].is_finite()
        values = torch.stack([outputs["loss"].detach(), outputs["fvu"], finite.to(outputs["fvu"].dtype)])
        step = trainer.global_step
        self.pending.append((step, values, batch))
        saves = step == task.recipe.steps or step in task.recipe.snapshot_steps()
        self.settle(task, 0 if saves or batch.device.type == "cpu" else 1)
        if step == task.recipe.steps:
            self.judge_result(task, batch)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, task: DictionaryTask, checkpoint: dict[str, Any]
    ) -> None:
        """Judge all steps before a checkpoint is written."""
        self.settle(task)

    def settle(self, task: DictionaryTask, lag: int = 0) -> None:
        """Judge all steps but the last `lag`."""
        while len(self.pending) > lag:
            step, values, batch = self.pending.popleft()
            loss, fvu, finite = values.tolist()
            self.judge(task, step, loss, fvu, bool(finite), batch)

    def judge(
        self, task: DictionaryTask, step: int, loss: float, fvu: float, finite: bool, batch: Tensor
    ) -> None:
        """Judge one step by its loss, its FVU, and whether weights and moments are finite after it."""
        numbers = math.isfinite(loss) and math.isfinite(fvu)
        if not (numbers and finite):
            found = "the weights are not finite any more" if numbers else f"the loss is {loss:g}"
            raise TrainingDivergedError(f"{self.place(task, step)}: {found}; {why_not_finite(task, batch)}")
        self.first = fvu if self.first is None else self.first
        self.streak = self.streak + 1 if fvu > self.limit else 0
        task.worth_keeping = self.streak == 0
        if self.streak >= max(PATIENCE_STEPS, PATIENCE_SHARE * task.recipe.steps):
            raise TrainingDivergedError(
                f"{self.place(task, step)}: the FVU is {fvu:.6g}, for {self.streak} steps above "
                f"{self.limit:.6g}; {self.verdict(task)}"
            )

    @torch.no_grad()
    def judge_result(self, task: DictionaryTask, batch: Tensor) -> None:
        """Judge the dictionary after the last update, on the last batch, wherever it started.

        Raises:
            TrainingDivergedError: it is worse than a random token in the place of each, or than the mean
                although it was not at first.
        """
        x = batch * task.input_scale
        x_hat = task.dictionary.reconstruct(x).x_hat
        fvu = float(fraction_of_all(x, x_hat))
        mean_token = MEAN_TOKEN + NOISE_ERRORS * noise_of_fraction(x, x_hat)
        limit = mean_token if self.first <= MEAN_TOKEN else ANOTHER_TOKEN
        if not fvu <= limit:
            raise TrainingDivergedError(
                f"{self.place(task, task.recipe.steps)}: the FVU is {fvu:.6g} after the last update, "
                f"expected at most {limit:g}; {self.verdict(task)}"
            )
        if fvu > MEAN_TOKEN:
            log.warning(
                "layer %d: the FVU is %.4g after the last step (%.4g at the first), and the mean of the "
                "tokens alone reaches 1; train longer, or check that the dictionary fits the data",
                self.layer, fvu, self.first,
            )  # fmt: skip

    def place(self, task: DictionaryTask, step: int) -> str:
        """Say where a training is."""
        return f"layer {self.layer}, step {step} of {task.recipe.steps}"

    def verdict(self, task: DictionaryTask) -> str:
        """Say what a high FVU means and what to do."""
        told = f"the mean of the tokens alone reaches 1, the first step had {self.first:.6g}: "
        if self.first <= ANOTHER_TOKEN:
            return f"{told}the training diverges; {lower_rate(task)}"
        return (
            f"{told}what it starts from does not fit the data. Check that `initial` belongs to this model "
            f"and layer, and its `input_scale` (trained at {task.input_scale:g}); if both are right, train "
            f"longer, or {lower_rate(task)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the FVU of the first step and the bad steps on end, for a checkpoint."""
        return {"first": self.first, "streak": self.streak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.first, self.streak = state_dict["first"], state_dict["streak"]


def lower_rate(task: DictionaryTask) -> str:
    """Say what helps against steps that are too large."""
    return f"lower learning_rate (now {task.recipe.learning_rate:g}) or lengthen warmup"


def why_not_finite(task: DictionaryTask, batch: Tensor) -> str:
    """Say why numbers are not finite, as far as the batch and the weights tell, and what to do."""
    x = batch * task.input_scale
    if not x.isfinite().all():
        return (
            "the activations of this step hold NaN or infinity; delete their shards and run snakemake again, "
            "with `extraction.storage: bfloat16` or the model in float32"
        )
    if float((x - x[0]).abs().max()) == 0:
        return f"the {len(x)} tokens of this step are all equal, so nothing varies; raise batch_tokens"
    broken = [name for name, one in task.dictionary.named_parameters() if not one.isfinite().all()]
    where = f"{', '.join(broken)} hold NaN or infinity now; " if broken else ""
    return f"{where}the training diverges; {lower_rate(task)}"

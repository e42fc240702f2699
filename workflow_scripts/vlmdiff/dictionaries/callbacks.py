"""What happens beside the steps of a training: log rows, snapshots, points to resume from."""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vlmdiff.dictionaries.collectives import largest
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import Dictionary
from vlmdiff.dictionaries.task import DictionaryTask
from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import replacing

log = logging.getLogger(__name__)
LOG_ROWS = 100
PROGRESS_EVERY_S = 10.0
NOTHING, SAVE, STOP = range(3)
# Between two checkpoints, unless the user says otherwise.
SHORTEST_PAUSE_S = 60.0
LARGEST_SHARE = 0.02


def in_raw_units(task: DictionaryTask) -> Dictionary:
    """Return a copy of a task's dictionary that acts on raw residuals."""
    dictionary = deepcopy(task.dictionary).cpu()
    dictionary.zero_grad(set_to_none=True)
    dictionary.rescale_input(1 / task.input_scale)
    return dictionary.as_used()


class TrainingLog(pl.Callback):
    """Keeps about a hundred rows of progress (contract TRAINING_LOG) and tells them to the log file."""

    def __init__(self, steps: int, layer: int):
        self.steps, self.layer, self.every = steps, layer, max(1, steps // LOG_ROWS)
        self.rows: list[dict[str, int | float]] = []
        self.told = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: DictionaryTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a row at every hundredth of the training, and after its first and last step."""
        step = trainer.global_step
        if step % self.every and step not in (1, self.steps):
            return
        values = {name: float(outputs[name]) for name in ("loss", "fvu", "l0", "auxiliary")}
        recipe = task.recipe
        rate = recipe.learning_rate * recipe.rate_factor(step - 1)
        self.rows.append({"step": step, **values, "dead": int(task.dead().sum()), "learning_rate": rate})
        self.tell(step)

    def tell(self, step: int) -> None:
        """Log the last row if the previous line is long enough ago."""
        now = time.monotonic()
        if step == self.steps or now - self.told >= PROGRESS_EVERY_S:
            self.told, row = now, self.rows[-1]
            log.info(
                "layer %d, step %d/%d: loss %.4f, FVU %.4f, L0 %.1f, %d dead, auxiliary %.4f",
                self.layer, step, self.steps,
                *(row[name] for name in ("loss", "fvu", "l0", "dead", "auxiliary")),
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's rows."""
        self.rows = list(state_dict["rows"])


class Snapshots(pl.Callback):
    """Saves the dictionary at parts of the training, to `folder/<percent>/`."""

    def __init__(self, folder: Path, at_step: dict[int, list[int]], provenance: dict[str, Any]):
        self.folder, self.at_step, self.provenance = folder, at_step, provenance

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: DictionaryTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a copy for each part that this step completes."""
        percentages = self.at_step.get(trainer.global_step, [])
        if not percentages or not trainer.is_global_zero:
            return
        dictionary = in_raw_units(task)
        for percent in percentages:
            facts = {**self.provenance, "percent": percent, "step": trainer.global_step}
            save_dictionary(dictionary, self.folder / str(percent), facts)


class ResumePoint(pl.Callback):
    """Saves the whole state of the training every so often, marked with the settings that made it.

    By default a minute or more lies between two checkpoints: so long that writing takes at most a fiftieth of
    the time. A checkpoint of a dictionary at real size has three gigabytes.

    On SIGTERM, which clusters send some seconds before they kill, it saves after the step that runs. Of
    several processes that train together all stop after the same step, whichever got the signal.

    While the training is far worse than no dictionary, the last checkpoint before that stays.

    Must come after `Snapshots` among the callbacks: a checkpoint implies the snapshots before it.

    Args:
        path: file that is replaced each time.
        settings: digest of everything that the result depends on.
        every_s: seconds between two checkpoints; None: as above.
        stopping: set when the training has to stop; None: only this one sets it.
    """

    def __init__(
        self,
        path: Path,
        settings: str,
        every_s: float | None = None,
        stopping: threading.Event | None = None,
    ):
        self.path, self.settings, self.every_s = path, settings, every_s
        self.saved, self.cost_s = time.monotonic(), 0.0
        self.stopping = stopping or threading.Event()

    def on_train_start(self, trainer: pl.Trainer, task: DictionaryTask) -> None:
        """Answer SIGTERM in the place of Lightning, which talks to the other processes at any moment."""
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self.stop)

    def stop(self, number: int, frame: Any) -> None:
        """Remember a signal until the step is done."""
        self.stopping.set()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: DictionaryTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if the last checkpoint is long enough ago.

        Raises:
            SIGTERMException: a process of several got the signal, or trainings that take turns have to stop.
        """
        # The first process writes, and alone knows how long that takes.
        due = trainer.is_global_zero and time.monotonic() - self.saved >= self.pause_s()
        due = due and task.worth_keeping
        wanted = largest(STOP if self.stopping.is_set() else SAVE if due else NOTHING, task.device)
        if wanted == STOP:
            raise SIGTERMException
        if wanted == SAVE:
            self.save(trainer)

    def pause_s(self) -> float:
        """Return how many seconds of training lie between the last checkpoint and the next."""
        return max(SHORTEST_PAUSE_S, self.cost_s / LARGEST_SHARE) if self.every_s is None else self.every_s

    def save(self, trainer: pl.Trainer) -> None:
        """Replace the checkpoint by one of this step; of several processes the first one writes."""
        began = time.monotonic()
        with replacing(self.path) if trainer.is_global_zero else nullcontext(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self.saved = time.monotonic()
        self.cost_s = self.saved - began

    def on_exception(self, trainer: pl.Trainer, task: DictionaryTask, exception: BaseException) -> None:
        """Save if the trainer stops for a SIGTERM, which it does between two steps."""
        if isinstance(exception, SIGTERMException) and largest(int(task.worth_keeping), task.device):
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, task: DictionaryTask, checkpoint: dict[str, Any]
    ) -> None:
        """Mark a checkpoint with the settings that made it."""
        checkpoint["vlmdiff_settings"] = self.settings

    def usable(self) -> Path | None:
        """Return the checkpoint if there is one that the same settings made.

        Weights and moments stay on disk: only where they lie in the file is read, and the settings.
        """
        if not self.path.is_file():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            found = content.get("vlmdiff_settings")
        except Exception as error:  # a damaged file fails in many ways, and none may stop a new start
            if problem := not_read(self.path, error):
                raise problem from error
            log.warning("%s cannot be read (%s); training starts anew", self.path, error)
            return None
        if found != self.settings:
            log.info("%s was made with other settings or inputs; training starts anew", self.path)
            return None
        return self.path

"""Visual instruction tuning of the built-in VLM, with snapshots and resumption."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from vlmdiff.config.world import WorldConfig
from vlmdiff.world.checkpoints import load_vlm, save_model, training_code_digest
from vlmdiff.world.curriculum import Curriculum, FirstGateClosedError
from vlmdiff.world.language import MAKERS, QUESTION_KINDS
from vlmdiff.world.resumption import CheckpointFolder, Progress
from vlmdiff.world.scenes import Scene, scene_splits
from vlmdiff.world.seeds import random_stream
from vlmdiff.world.sequences import (
    Sequences,
    answer_accuracy,
    encode,
    final_states,
    naming_loss,
    weighted_loss,
)
from vlmdiff.world.training_log import TrainingLog
from vlmdiff.world.vision import patch_states, pixel_values

BETAS = (0.9, 0.95)
CLIP_NORM = 1.0
IMAGE_CHUNK = 500
log = logging.getLogger(__name__)


@torch.no_grad()
def project_images(
    vlm: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: list[Scene]
) -> Tensor:
    """Projected patches (scenes, patches, d_model) of all scenes; tower and projector are frozen."""
    chunks = [scenes[start : start + IMAGE_CHUNK] for start in range(0, len(scenes), IMAGE_CHUNK)]
    states = [patch_states(vlm.model.vision_tower, pixel_values(chunk, processor)) for chunk in chunks]
    return torch.cat([vlm.model.multi_modal_projector(chunk) for chunk in states])


@dataclass
class ValidationSet:
    """Fixed validation questions of every kind, with the images they are about."""

    images: Tensor
    sequences: dict[str, Sequences]

    def accuracy(self, vlm: LlavaForConditionalGeneration) -> dict[str, float]:
        """Accuracy of each kind of question."""
        return {kind: answer_accuracy(vlm, part, self.images) for kind, part in self.sequences.items()}


def validation_set(
    config: WorldConfig, vlm: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: list[Scene]
) -> ValidationSet:
    """Ask one question of every kind about each of the first validation scenes."""
    chosen = scenes[: config.tuning.validation_samples]
    rng = random_stream(config.seed, "tuning", "validation")
    sequences = {
        kind: encode([MAKERS[kind](scene, rng) for scene in chosen], processor.tokenizer)
        for kind in QUESTION_KINDS
    }
    return ValidationSet(project_images(vlm, processor, chosen), sequences)


@dataclass
class TuningData:
    """Training scenes with their projected images, and the validation questions."""

    scenes: list[Scene]
    images: Tensor
    validation: ValidationSet


def tuning_data(
    config: WorldConfig, vlm: LlavaForConditionalGeneration, processor: LlavaProcessor
) -> TuningData:
    """Draw and project all images once; tower and projector stay frozen."""
    splits = scene_splits(config.scenes.model_dump(), config.seed)
    images = project_images(vlm, processor, splits["train"])
    return TuningData(splits["train"], images, validation_set(config, vlm, processor, splits["validation"]))


class TuningRun:
    """A tuning run: all language-model weights of a VLM learn by the curriculum.

    Every step draws from its own random stream, so that an interrupted and resumed run is the
    same as an uninterrupted one.
    """

    def __init__(
        self,
        config: WorldConfig,
        vlm: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        checkpoints: CheckpointFolder,
        log_csv: Path,
    ):
        self.config, self.settings = config, config.tuning
        self.vlm, self.tokenizer = vlm, processor.tokenizer
        self.language_model = vlm.model.language_model
        self.checkpoints, self.log_csv = checkpoints, log_csv
        self.data = tuning_data(config, vlm, processor)
        self.optimiser = self._new_optimiser()
        self.progress = Progress()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.language_model.parameters(),
            lr=self.settings.learning_rate,
            betas=BETAS,
            weight_decay=self.settings.weight_decay,
        )

    def run(self) -> Progress:
        """Tune, from the last checkpoint if there is one; try another seed where a run gets stuck.

        Raises:
            FirstGateClosedError: if every attempt got stuck in the first phase.
        """
        initial = {name: value.clone() for name, value in self.language_model.state_dict().items()}
        self.progress = self.checkpoints.resume(self.language_model, self.optimiser) or Progress()
        while True:
            try:
                self._attempt()
                return self.progress
            except FirstGateClosedError as failure:
                following = self.progress.attempt + 1
                if following == self.settings.attempts:
                    raise
                log.warning("attempt %d failed: %s", self.progress.attempt, failure)
                self.language_model.load_state_dict(initial)
                self.optimiser = self._new_optimiser()
                self.progress = Progress(attempt=following, wall_s=self.progress.wall_s)

    def _attempt(self) -> None:
        """Train with one seed until the learning rate has decayed."""
        progress, before, started = self.progress, self.progress.wall_s, time.monotonic()
        curriculum = Curriculum(self.settings, progress.phase_index, progress.phase_start)
        losses = []
        with TrainingLog(self.log_csv, every=1, rows=progress.rows) as table:
            while progress.step != curriculum.total_steps:
                progress.step += 1
                losses.append(self._step(curriculum, progress.step))
                if progress.step % self.settings.check_every and progress.step != curriculum.total_steps:
                    continue
                progress.wall_s = before + time.monotonic() - started
                self._check(curriculum, table, sum(losses) / len(losses))
                losses.clear()

    def _step(self, curriculum: Curriculum, step: int) -> float:
        """One optimiser step on exchanges about random scenes; returns the loss."""
        rng = random_stream(self.config.seed, "tuning", self.progress.attempt, step)
        rows = rng.choices(range(len(self.data.scenes)), k=self.settings.batch_size)
        exchanges = [curriculum.draw(self.data.scenes[row], step, rng) for row in rows]
        settings, scenes = self.settings, [self.data.scenes[row] for row in rows]
        sequences = encode(exchanges, self.tokenizer, settings.binding_weight, settings.answer_weight)
        states = final_states(self.vlm, sequences.input_ids, self.data.images[rows])
        naming = naming_loss(self.vlm, sequences, states, scenes, self.tokenizer)
        loss = weighted_loss(self.vlm, sequences, states) + settings.naming_weight * naming
        for group in self.optimiser.param_groups:
            group["lr"] = curriculum.learning_rate(step)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.language_model.parameters(), CLIP_NORM)
        self.optimiser.step()
        return loss.item()

    def _check(self, curriculum: Curriculum, table: TrainingLog, loss: float) -> None:
        """Validate, perhaps open a gate, and save the state."""
        progress, step = self.progress, self.progress.step
        accuracy = self.data.validation.accuracy(self.vlm)
        row = {"attempt": progress.attempt, "phase": curriculum.phase.name, "loss": loss}
        table.write(step, {**row, "learning_rate": curriculum.learning_rate(step), **accuracy})
        curriculum.update(step, accuracy)
        progress.phase_index, progress.phase_start = curriculum.phase_index, curriculum.phase_start
        progress.rows = table.rows
        self.checkpoints.save(self.language_model, self.optimiser, progress)


def settings_fingerprint(config: WorldConfig, aligned_dir: Path) -> str:
    """Digest of the code, the settings and the start weights of a tuning run."""
    total = hashlib.sha256(training_code_digest().encode())
    total.update(json.dumps(config.stage_settings("tuning"), sort_keys=True).encode())
    total.update((aligned_dir / "model.safetensors").read_bytes())
    return total.hexdigest()


def train_vlm(
    config: WorldConfig,
    aligned_dir: Path,
    snapshot_dirs: Mapping[int, Path],
    log_csv: Path,
    checkpoint_dir: Path,
) -> None:
    """Tune the aligned VLM and save it as it was at several percentages of all steps.

    Args:
        config: the world's configuration.
        aligned_dir: folder of the VLM before tuning.
        snapshot_dirs: folder to write for each percentage of the steps; 100 is the end.
        log_csv: table of losses and validation accuracies to write.
        checkpoint_dir: where an interrupted run finds its state; removed at the end.
    """
    vlm, processor = load_vlm(aligned_dir)
    vlm.requires_grad_(False)
    vlm.model.language_model.requires_grad_(True)
    checkpoints = CheckpointFolder(checkpoint_dir, settings_fingerprint(config, aligned_dir))
    progress = TuningRun(config, vlm, processor, checkpoints, log_csv).run()
    for percent, folder in snapshot_dirs.items():
        step = checkpoints.nearest_step(progress.attempt, progress.step * percent / 100)
        vlm.model.language_model.load_state_dict(checkpoints.weights(progress.attempt, step))
        record = {
            "stage": "tuning",
            "settings": config.stage_settings("tuning"),
            "attempt": progress.attempt,
            "steps": step,
            "total_steps": progress.step,
            "wall_s": round(progress.wall_s, 1),
        }
        save_model(folder, vlm, processor, config.weights_dtype, record)
    checkpoints.remove()

"""Control models: the same trainings with one thing taken away that the findings should depend on.

- `continued_text`: the base language model goes on reading text. Nothing multimodal happens.
- `shuffled_images`: the VLM is tuned as the real one, each question beside another scene's image, so
  that images tell nothing about answers.
- `no_spatial`: the VLM is tuned with its own images, but only on questions that need no place: no
  statement, relation, row, column, caption or description.

A tuned control takes exactly as many steps as the real model, through the same phases at the same
learning rates, which are read from the real model's training log.
"""

import csv
import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlmdiff.config.world import WorldConfig
from vlmdiff.runtime.locks import claim
from vlmdiff.runtime.progress import progress
from vlmdiff.world.base_lm import text_batch
from vlmdiff.world.checkpoints import load_base_lm, load_vlm, save_model
from vlmdiff.world.curriculum import PHASES, Curriculum
from vlmdiff.world.language import GENERAL_KINDS, MAKERS, Exchange
from vlmdiff.world.leftovers import clear_leftovers
from vlmdiff.world.resumption import CheckpointFolder, Progress
from vlmdiff.world.scenes import SIZES, Scene, scene_splits
from vlmdiff.world.seeds import random_stream
from vlmdiff.world.sequences import encode, final_states, named_objects, naming_loss, weighted_loss
from vlmdiff.world.training_log import TrainingLog
from vlmdiff.world.tuning import BETAS, CLIP_NORM, TuningData, tuning_data

log = logging.getLogger(__name__)


class ScheduleError(ValueError):
    """The real model's training log cannot be followed."""


@dataclass(frozen=True)
class Schedule:
    """Phases of the real tuning: (last step, index of the phase), in order."""

    phases: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, log_csv: Path) -> "Schedule":
        """Read it from a training log of the real model.

        Raises:
            ScheduleError: the log is empty or names a phase that the curriculum does not have.
        """
        indices = {phase.name: index for index, phase in enumerate(PHASES)}
        with log_csv.open() as file:
            rows = [(int(row["step"]), row["phase"]) for row in csv.DictReader(file)]
        if unknown := sorted({phase for _, phase in rows} - set(indices)):
            raise ScheduleError(f"{log_csv}: unknown phases {unknown}; expected some of {sorted(indices)}")
        if not rows:
            raise ScheduleError(f"{log_csv}: no rows; train the VLM first")
        ends = {indices[phase]: step for step, phase in rows}
        return cls(tuple((ends[index], index) for index in sorted(ends)))

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1][0]

    def curriculum(self, config: WorldConfig, step: int) -> Curriculum:
        """Return the curriculum as the real run had it at a step."""
        start = 0
        for end, index in self.phases:
            if step <= end:
                return Curriculum(config.tuning, index, start)
            start = end
        raise ScheduleError(f"step {step}: the real run had {self.steps}")


class Trainer(Protocol):
    """What one kind of control trains, and its loss at a step."""

    model: torch.nn.Module

    def loss(self, step: int) -> Tensor:
        """Return the loss of one step's data."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""


class ContinuedText:
    """The base language model on further documents, at the constant rate of its training."""

    def __init__(self, config: WorldConfig, lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast):
        self.config, self.lm, self.tokenizer = config, lm, tokenizer
        # Its head shares the embedding's weights, which are kept once.
        self.model = lm.model
        self.scenes = scene_splits(config.scenes.model_dump(), config.seed)["train"]

    def learning_rate(self, step: int) -> float:
        """See `Trainer`."""
        return self.config.language_model.learning_rate

    def loss(self, step: int) -> Tensor:
        """See `Trainer`."""
        rng = random_stream(self.config.seed, "continued_text", step)
        count = self.config.language_model.batch_size
        input_ids, labels = text_batch(self.scenes, count, self.tokenizer, rng)
        return self.lm(input_ids=input_ids, labels=labels, use_cache=False).loss


class TunedControl:
    """A VLM through the phases of the real tuning, with other images or fewer kinds of questions."""

    def __init__(
        self,
        config: WorldConfig,
        kind: str,
        vlm: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        data: TuningData,
        schedule: Schedule,
    ):
        self.config, self.kind, self.vlm, self.tokenizer = config, kind, vlm, tokenizer
        self.data, self.schedule = data, schedule
        self.model = vlm.model.language_model

    def learning_rate(self, step: int) -> float:
        """See `Trainer`."""
        return self.schedule.curriculum(self.config, step).learning_rate(step)

    def draw(self, scene: Scene, step: int, rng: random.Random) -> Exchange:
        """Draw the exchange that is taught at this step, from the kinds that this control has."""
        curriculum = self.schedule.curriculum(self.config, step)
        if self.kind != "no_spatial":
            return curriculum.draw(scene, step, rng)
        mix = {kind: weight for kind, weight in curriculum.mix().items() if kind in GENERAL_KINDS}
        return MAKERS[rng.choices(list(mix), list(mix.values()))[0]](scene, rng)

    def loss(self, step: int) -> Tensor:
        """See `Trainer`; the same weights as in the real tuning."""
        rng, settings = random_stream(self.config.seed, self.kind, step), self.config.tuning
        rows = rng.choices(range(len(self.data.scenes)), k=settings.batch_size)
        scenes = [self.data.scenes[row] for row in rows]
        exchanges = [self.draw(scene, step, rng) for scene in scenes]
        # Another scene's image: drawn independently of the scene that the question is about.
        shown = rng.choices(range(len(self.data.scenes)), k=len(rows)) if self.shuffled else rows
        sequences = encode(exchanges, self.tokenizer, settings.binding_weight, settings.answer_weight)
        states = final_states(self.vlm, sequences.input_ids, self.data.images[shown])
        naming = size_naming_loss if self.kind == "no_spatial" else naming_loss
        named = naming(self.vlm, sequences, states, scenes, self.tokenizer)
        return weighted_loss(self.vlm, sequences, states) + settings.naming_weight * named

    @property
    def shuffled(self) -> bool:
        """Whether images do not belong to the questions."""
        return self.kind == "shuffled_images"


def size_naming_loss(
    vlm: LlavaForConditionalGeneration,
    sequences: object,
    states: Tensor,
    scenes: Sequence[Scene],
    tokenizer: PreTrainedTokenizerFast,
) -> Tensor:
    """Ask the tokens that name an object for its size alone: the naming loss without places."""
    rows, positions, things = named_objects(sequences.input_ids, scenes, tokenizer)
    scores = vlm.lm_head(states[rows, positions])[:, tokenizer.convert_tokens_to_ids(list(SIZES))]
    target = torch.tensor([SIZES.index(thing.size) for thing in things])
    return torch.nn.functional.cross_entropy(scores, target)


def untuned_vlm(vlm_dir: Path, base_lm_dir: Path) -> tuple[LlavaForConditionalGeneration, object]:
    """Return the VLM as it was before tuning: its tower and projector, which stay frozen, and the base LM."""
    vlm, processor = load_vlm(vlm_dir)
    base = load_base_lm(base_lm_dir)
    vlm.model.language_model.load_state_dict(base.model.state_dict())
    vlm.lm_head.load_state_dict(base.lm_head.state_dict())
    vlm.requires_grad_(False)
    vlm.model.language_model.requires_grad_(True)
    return vlm, processor


def fingerprint(config: WorldConfig, kind: str, code: str, *files: Path) -> str:
    """Digest of everything that a control's training depends on."""
    total = hashlib.sha256(json.dumps([kind, code, config.model_dump(mode="json")]).encode())
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def steps_left(last: int, steps: int) -> Iterator[int]:
    """Yield the steps after `last`, with a progress line."""
    yield from progress(range(last + 1, steps + 1), "steps")


def train(
    trainer: Trainer,
    optimiser: torch.optim.Optimizer,
    checkpoints: CheckpointFolder,
    steps: int,
    every: int,
    log_csv: Path,
) -> Progress:
    """Train for a number of steps, from the last checkpoint if there is one."""
    state = checkpoints.resume(trainer.model, optimiser) or Progress()
    before, started, losses = state.wall_s, time.monotonic(), []
    with TrainingLog(log_csv, every=1, rows=state.rows) as table:
        for step in steps_left(state.step, steps):
            for group in optimiser.param_groups:
                group["lr"] = trainer.learning_rate(step)
            loss = trainer.loss(step)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), CLIP_NORM)
            optimiser.step()
            losses.append(loss.item())
            if step % every == 0 or step == steps:
                rate = trainer.learning_rate(step)
                table.write(step, {"loss": sum(losses) / len(losses), "learning_rate": rate})
                state.step, state.rows = step, table.rows
                state.wall_s = before + time.monotonic() - started
                checkpoints.save(trainer.model, optimiser, state)
                losses.clear()
    return state


def train_control(
    config: WorldConfig,
    kind: str,
    folders: tuple[Path, Path],
    real_log_csv: Path,
    output: Path,
    log_csv: Path,
    checkpoint_dir: Path,
    code: str,
) -> None:
    """Train one control model and save it.

    Args:
        config: the world's configuration.
        kind: `continued_text`, `shuffled_images` or `no_spatial`.
        folders: the base language model and the real VLM.
        real_log_csv: training log of the real VLM, whose steps and phases are followed.
        output: Hugging Face folder to write.
        log_csv: table of losses to write.
        checkpoint_dir: where an interrupted run finds its state; removed at the end.
        code: digest of the code, so that a changed training does not go on from an old state.
    """
    base_dir, vlm_dir = folders
    schedule, settings = Schedule.read(real_log_csv), config.tuning
    if kind == "continued_text":
        model = load_base_lm(base_dir)
        processor = load_vlm(vlm_dir)[1].tokenizer
        trainer: Trainer = ContinuedText(config, model, processor)
        optimiser = torch.optim.AdamW(trainer.model.parameters(), config.language_model.learning_rate)
    else:
        model, processor = untuned_vlm(vlm_dir, base_dir)
        data = tuning_data(config, model, processor)
        trainer = TunedControl(config, kind, model, processor.tokenizer, data, schedule)
        optimiser = torch.optim.AdamW(
            trainer.model.parameters(),
            settings.learning_rate,
            betas=BETAS,
            weight_decay=settings.weight_decay,
        )
    weights = [folder / "model.safetensors" for folder in folders]
    made_from = fingerprint(config, kind, code, *weights, real_log_csv)
    with claim(f"{checkpoint_dir}.lock"):
        clear_leftovers(checkpoint_dir, made_from, settings.check_every)
        checkpoints = CheckpointFolder(checkpoint_dir, made_from)
        state = train(trainer, optimiser, checkpoints, schedule.steps, settings.check_every, log_csv)
        record = {"stage": kind, "steps": state.step, "wall_s": round(state.wall_s, 1)}
        save_model(output, model, processor, config.weights_dtype, record)
        checkpoints.remove()

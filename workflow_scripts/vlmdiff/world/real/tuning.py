"""Tuning of a real language model's adapter on questions about the world's images, and of its controls.

- `vlm`: questions about the image that is shown.
- `shuffled_images`: the same, beside another scene's image.
- `no_spatial`: only questions that need no place.
- `continued_text`: no image at all; the language model reads documents about as many scenes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.runtime.files import file_sha256
from vlmdiff.runtime.locks import claim
from vlmdiff.runtime.progress import progress
from vlmdiff.world.language import QUESTION_KINDS, Exchange
from vlmdiff.world.leftovers import clear_leftovers
from vlmdiff.world.real.curriculum import Curriculum
from vlmdiff.world.real.english import MAKERS, document
from vlmdiff.world.real.frame import framed, load_language_model, seen_states
from vlmdiff.world.real.lora import Adapter
from vlmdiff.world.real.packing import Packed, pack
from vlmdiff.world.real.retention import Retention, read_texts
from vlmdiff.world.resumption import CheckpointFolder, Progress
from vlmdiff.world.scenes import Scene, scene_splits
from vlmdiff.world.seeds import random_stream, seed_torch
from vlmdiff.world.tokenizer import IMAGE_TOKENS
from vlmdiff.world.training_log import TrainingLog

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerBase

    from vlmdiff.config.real_model import RealTuning
    from vlmdiff.config.world import WorldConfig

BETAS = (0.9, 0.95)
CLIP_NORM = 1.0
# A document has about as many tokens as so many questions, with their part of an image.
QUESTIONS_A_DOCUMENT = 2.4
VALIDATION_CHUNK = 16


class Trainer(Protocol):
    """What is tuned: its loss at a step, and how well it does."""

    decoder: PreTrainedModel
    head: nn.Module
    tokenizer: PreTrainedTokenizerBase
    projector: nn.Module | None

    def loss(self, step: int) -> Tensor:
        """Return the loss of one step's data."""

    def check(self) -> dict[str, float]:
        """Return accuracies, or what else tells progress, for the log."""


class Questions:
    """Questions about images, many about each at once."""

    def __init__(
        self,
        config: WorldConfig,
        kind: str,
        vlm: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        scenes: Mapping[str, list[Scene]],
        states: Mapping[str, Tensor],
    ):
        """Keep what is asked about, and the images as the frozen tower and projector see them.

        Args:
            config: the world's configuration.
            kind: what is tuned: `vlm`, or a control's kind.
            vlm: before tuning; its decoder may get an adapter.
            tokenizer: of its language model.
            scenes: of `train` and `validation`.
            states: the tower's states of these (scenes, patches, d_vision).
        """
        self.config, self.kind, self.settings = config, kind, config.real_model.tuning
        self.vlm, self.tokenizer, self.scenes = vlm, tokenizer, scenes
        self.decoder, self.head = vlm.model.language_model, vlm.lm_head
        self.projector = vlm.model.multi_modal_projector
        self.curriculum = Curriculum(self.settings, spatial=kind != "no_spatial")
        self.seen = {split: one.to(vlm.dtype) for split, one in states.items()}
        self.validation = list(self._validation_questions())

    def _validation_questions(self) -> list[tuple[Tensor, Packed]]:
        """Ask one question of every kind about the first validation scenes, some images at a time."""
        rng = random_stream(self.config.seed, "real", "validation")
        chosen = self.scenes["validation"][: self.settings.validation_images]
        for start in range(0, len(chosen), VALIDATION_CHUNK):
            part = chosen[start : start + VALIDATION_CHUNK]
            asked = [[MAKERS[kind](scene, rng) for kind in QUESTION_KINDS] for scene in part]
            seen = self.seen["validation"][start : start + len(part)]
            yield seen, pack(asked, self.tokenizer, IMAGE_TOKENS)

    def states(self, packed: Packed, seen: Tensor) -> Tensor:
        """Return the decoder's final states (images, tokens, d_model) of packed exchanges.

        Args:
            packed: the exchanges.
            seen: the tower's states of their images (images, patches, d_vision).
        """
        images = self.projector(seen)
        words = self.decoder.get_input_embeddings()(packed.input_ids)
        end = packed.head + packed.image
        embedded = torch.cat([words[:, : packed.head], images, words[:, end:]], dim=1)
        mask = torch.zeros(packed.sees.shape, dtype=embedded.dtype).masked_fill_(~packed.sees, -torch.inf)
        return self.decoder(
            inputs_embeds=embedded, attention_mask=mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state

    def loss(self, step: int) -> Tensor:
        """See `Trainer`: cross-entropy of the answers, each of one weight, and of bound shapes."""
        rng = random_stream(self.config.seed, "real", self.kind, step)
        rows = rng.choices(range(len(self.scenes["train"])), k=self.settings.images)
        # Another scene's image: drawn independently of the scene that the question is about.
        shown = rng.choices(range(len(self.scenes["train"])), k=len(rows)) if self.shuffled else rows
        asked = [self.ask(self.scenes["train"][row], step, rng) for row in rows]
        packed = pack(asked, self.tokenizer, IMAGE_TOKENS, self.settings.binding_weight)
        states = self.states(packed, self.seen["train"][shown])
        weight = packed.weight[:, 1:]
        counted = weight > 0
        scores = self.head(states[:, :-1][counted]).float()
        losses = cross_entropy(scores, packed.input_ids[:, 1:][counted], reduction="none")
        return (losses * weight[counted]).sum() / weight.sum()

    def ask(self, scene: Scene, step: int, rng: object) -> list[Exchange]:
        """Draw the exchanges about one scene."""
        return [self.curriculum.draw(scene, step, rng) for _ in range(self.settings.questions)]

    @property
    def shuffled(self) -> bool:
        """Whether images do not belong to the questions."""
        return self.kind == "shuffled_images"

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """See `Trainer`: for each kind, how often the first token of the answer is the likeliest of all."""
        right = []
        for seen, packed in self.validation:
            states = self.states(packed, seen)
            rows = torch.arange(len(states))[:, None]
            expected = packed.input_ids[rows, packed.answer + 1]
            right.append(self.head(states[rows, packed.answer]).argmax(-1) == expected)
        return dict(zip(QUESTION_KINDS, torch.cat(right).float().mean(0).tolist(), strict=True))


class Documents:
    """Documents about scenes, without images."""

    def __init__(
        self,
        config: WorldConfig,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        scenes: Mapping[str, list[Scene]],
    ):
        self.config, self.settings, self.tokenizer = config, config.real_model.tuning, tokenizer
        self.decoder, self.head, self.scenes, self.projector = lm.model, lm.lm_head, scenes, None
        rng = random_stream(config.seed, "real", "validation")
        self.validation = self.encode(scenes["validation"][: self.settings.validation_images], rng)

    def encode(self, scenes: list[Scene], rng: object) -> tuple[Tensor, Tensor]:
        """Write a document about each scene: token ids and mask (scenes, tokens)."""
        texts = [document(scene, rng) for scene in scenes]
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True)
        return encoded.input_ids, encoded.attention_mask

    def loss(self, step: int) -> Tensor:
        """See `Trainer`: cross-entropy of all tokens."""
        rng = random_stream(self.config.seed, "real", "continued_text", step)
        count = round(self.settings.images * self.settings.questions / QUESTIONS_A_DOCUMENT)
        scenes = rng.choices(self.scenes["train"], k=max(1, count))
        return self.cross_entropy(*self.encode(scenes, rng))

    def cross_entropy(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean cross-entropy of tokens that follow others."""
        states = self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        counted = mask[:, 1:].bool()
        scores, target = self.head(states[:, :-1][counted]).float(), input_ids[:, 1:][counted]
        return cross_entropy(scores, target)

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """See `Trainer`: cross-entropy on validation documents."""
        return {"validation_loss": self.cross_entropy(*self.validation).item()}


@dataclass(frozen=True)
class Files:
    """What a tuning starts from: the language model, a VLM with the tower, the fitted frame, plain text."""

    base: Path
    tower_from: Path
    frame: Path
    texts: Path


def new_trainer(config: WorldConfig, kind: str, files: Files) -> Trainer:
    """Load what is tuned, in the number format that it is computed in."""
    dtype = getattr(torch, config.real_model.tuning.dtype)
    scenes = scene_splits(config.scenes.model_dump(), config.seed)
    if kind == "continued_text":
        lm, tokenizer = load_language_model(files.base)
        return Documents(config, lm.to(dtype).requires_grad_(False).eval(), tokenizer, scenes)
    vlm, processor = framed(files.base, files.tower_from, files.frame)
    # On short sequences with a mask, backward through fused attention takes a third of a step on a CPU.
    vlm.model.language_model.set_attn_implementation("eager")
    shown = {
        "train": scenes["train"],
        "validation": scenes["validation"][: config.real_model.tuning.validation_images],
    }
    states = {split: seen_states(vlm, processor, part) for split, part in shown.items()}
    return Questions(config, kind, vlm.to(dtype), processor.tokenizer, scenes, states)


def fingerprint(config: WorldConfig, kind: str, code: str, files: Files) -> str:
    """Digest of everything that a tuning depends on."""
    settings = config.real_settings()
    given = [model_fingerprint(files.base), file_sha256(files.frame), file_sha256(files.texts)]
    return hashlib.sha256(json.dumps([kind, code, settings, given], sort_keys=True).encode()).hexdigest()


def optimise(
    trainer: Trainer,
    adapter: Adapter,
    retention: Retention,
    checkpoints: CheckpointFolder,
    settings: RealTuning,
    log_csv: Path,
) -> Progress:
    """Train an adapter for all steps, from the last checkpoint if there is one."""
    optimiser = torch.optim.AdamW(
        adapter.parameters(), settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay
    )
    curriculum = Curriculum(settings)
    state = checkpoints.resume(adapter, optimiser) or Progress()
    adapter.write_back()
    before, started, losses = state.wall_s, time.monotonic(), defaultdict(list)
    with TrainingLog(log_csv, every=1, rows=state.rows) as table:
        for step in progress(range(state.step + 1, settings.steps + 1), "steps"):
            rate = curriculum.learning_rate(step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            parts = {"loss": trainer.loss(step)}
            if settings.retention_texts:
                parts["divergence"] = retention.loss(adapter.adapted, trainer.head, step)
            (parts["loss"] + settings.retention_weight * parts.get("divergence", 0)).backward()
            adapter.take_gradients()
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), CLIP_NORM)
            optimiser.step()
            adapter.write_back()
            for name, part in parts.items():
                losses[name].append(part.item())
            if step % settings.check_every and step != settings.steps:
                continue
            means = {name: fmean(values) for name, values in losses.items()}
            table.write(step, {**means, "learning_rate": rate, **trainer.check()})
            state.step, state.rows = step, table.rows
            state.wall_s = before + time.monotonic() - started
            checkpoints.save(adapter, optimiser, state)
            losses.clear()
    return state


def tune(
    config: WorldConfig,
    kind: str,
    files: Files,
    snapshot_dirs: Mapping[int, Path],
    log_csv: Path,
    checkpoint_dir: Path,
    code: str,
) -> None:
    """Tune one adapter and save it as it was at several percentages of all steps.

    Args:
        config: the world's configuration, with `real_model`.
        kind: `vlm`, `shuffled_images`, `no_spatial` or `continued_text`.
        files: what it starts from.
        snapshot_dirs: folder to write for each percentage of the steps; 100 is the end.
        log_csv: table of losses and validation accuracies to write.
        checkpoint_dir: where an interrupted run finds its state; removed at the end.
        code: digest of the code, so that a changed training does not go on from an old state.
    """
    settings = config.real_model.tuning
    seed_torch(config.seed, "real", kind)
    trainer = new_trainer(config, kind, files)
    if settings.compile:
        # Lengths differ from step to step.
        for block in trainer.decoder.layers:
            block.compile(dynamic=True)
    projector = trainer.projector if settings.projector == "tuned" else None
    adapter = Adapter(trainer.decoder, config.real_model.lora, projector)
    texts = read_texts(files.texts)
    retention = Retention(texts, trainer.tokenizer, config.seed, settings.retention_texts)
    made_from = fingerprint(config, kind, code, files)
    with claim(f"{checkpoint_dir}.lock"):
        clear_leftovers(checkpoint_dir, made_from, settings.check_every)
        checkpoints = CheckpointFolder(checkpoint_dir, made_from)
        state = optimise(trainer, adapter, retention, checkpoints, settings, log_csv)
        for percent, folder in snapshot_dirs.items():
            step = checkpoints.nearest_step(state.attempt, state.step * percent / 100)
            adapter.load_state_dict(checkpoints.weights(state.attempt, step))
            record = {"kind": kind, "steps": step, "total_steps": state.step}
            record |= {"wall_s": round(state.wall_s, 1), "settings": config.real_settings()}
            adapter.save(folder, record)
        checkpoints.remove()

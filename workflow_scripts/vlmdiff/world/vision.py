"""The vision side: a CLIP tower trained to read patches, and a projector into word space."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlmdiff.config.world import VisionTraining, WorldConfig
from vlmdiff.world.checkpoints import load_base_lm, save_model
from vlmdiff.world.draw import IMAGE_PIXELS, PATCH_PIXELS, draw_image
from vlmdiff.world.language import COLUMNS, ROWS
from vlmdiff.world.scenes import COLOURS, GRID, SHAPES, SIZES, Scene, scene_splits
from vlmdiff.world.seeds import seed_torch
from vlmdiff.world.tokenizer import IMAGE_TOKENS, build_processor, build_tokenizer
from vlmdiff.world.training_log import TrainingLog

VISION_FEATURE_LAYER = -1
POSITION_WORDS = {"row": ROWS, "column": COLUMNS}
ATTRIBUTE_WORDS = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, **POSITION_WORDS}
EMPTY = -1


def pixel_values(scenes: list[Scene], processor: LlavaProcessor) -> Tensor:
    """Draw scenes and preprocess them: (scenes, 3, height, width)."""
    images = [draw_image(scene) for scene in scenes]
    return processor.image_processor(images, return_tensors="pt").pixel_values


def patch_attributes(scenes: list[Scene]) -> dict[str, Tensor]:
    """Index of the word for each attribute of each patch, (scenes, patches).

    Colour, shape and size are `EMPTY` where no object is; row and column are always there.
    """
    rows = [
        [_cell_attributes(scene, *divmod(cell, GRID)) for cell in range(IMAGE_TOKENS)] for scene in scenes
    ]
    table = torch.tensor(rows)
    return {name: table[..., index] for index, name in enumerate(ATTRIBUTE_WORDS)}


def _cell_attributes(scene: Scene, row: int, column: int) -> tuple[int, ...]:
    thing = scene.at(row, column)
    if thing is None:
        return EMPTY, EMPTY, EMPTY, row, column
    colour, shape, size = COLOURS.index(thing.colour), SHAPES.index(thing.shape), SIZES.index(thing.size)
    return colour, shape, size, row, column


class PatchReader(nn.Module):
    """A CLIP tower with one linear classifier of its patch states per attribute."""

    def __init__(self, settings: VisionTraining):
        super().__init__()
        self.tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=settings.d_vision,
                intermediate_size=settings.d_mlp,
                num_hidden_layers=settings.blocks,
                num_attention_heads=settings.heads,
                image_size=IMAGE_PIXELS,
                patch_size=PATCH_PIXELS,
            )
        )
        self.heads = nn.ModuleDict(
            # One class more than words: the patch is empty.
            {name: nn.Linear(settings.d_vision, len(words) + 1) for name, words in ATTRIBUTE_WORDS.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Class scores (images, patches, words + 1) of each attribute."""
        patches = patch_states(self.tower, pixels)
        return {name: head(patches) for name, head in self.heads.items()}


def patch_states(tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """States (images, patches, d_vision) of the layer that the projector reads, without CLS."""
    states = tower(pixels, output_hidden_states=True).hidden_states
    return states[VISION_FEATURE_LAYER][:, 1:]


def pretrain_tower(
    settings: VisionTraining, pixels: Tensor, attributes: dict[str, Tensor], table: TrainingLog
) -> CLIPVisionModel:
    """Train a tower to tell what each patch shows and where it lies; return it frozen."""
    reader = PatchReader(settings).train()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=settings.learning_rate)
    for step, rows in enumerate(_random_rows(len(pixels), settings.batch_size, settings.steps), start=1):
        scores = reader(pixels[rows])
        targets = {name: values[rows] for name, values in attributes.items()}
        loss = sum(_attribute_loss(scores[name], targets[name]) for name in ATTRIBUTE_WORDS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        accuracies = {f"{name}_accuracy": _accuracy(scores[name], targets[name]) for name in ATTRIBUTE_WORDS}
        table.write(step, {"part": "tower", "loss": loss.item(), **accuracies}, last=step == settings.steps)
    return reader.tower.eval().requires_grad_(False)


def _random_rows(total: int, batch_size: int, steps: int) -> Iterator[Tensor]:
    return (torch.randint(total, (batch_size,)) for _ in range(steps))


def _classes(scores: Tensor, target: Tensor) -> Tensor:
    """Targets with the last class for empty patches."""
    return target.masked_fill(target == EMPTY, scores.shape[-1] - 1)


def _attribute_loss(scores: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, 1), _classes(scores, target).flatten())


def _accuracy(scores: Tensor, target: Tensor) -> float:
    return (scores.argmax(-1) == _classes(scores, target)).float().mean().item()


def word_space_targets(
    attributes: dict[str, Tensor],
    embedding: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    position_weight: float,
) -> Tensor:
    """What a patch should look like to the language model: (scenes, patches, d_model).

    The sum of the embeddings of the words that describe the patch, each centred on the mean of
    its category and row and column weighted; zero where no object is.

    Args:
        attributes: word indices from `patch_attributes`.
        embedding: (vocabulary, d_model) word embeddings of the base language model.
        tokenizer: maps words to rows of `embedding`.
        position_weight: weight of row and column.
    """
    occupied = attributes["colour"] != EMPTY
    target = torch.zeros(*occupied.shape, embedding.shape[1])
    for name, words in ATTRIBUTE_WORDS.items():
        vectors = embedding[tokenizer.convert_tokens_to_ids(list(words))]
        centred = vectors - vectors.mean(0)
        weight = position_weight if name in POSITION_WORDS else 1.0
        target[occupied] += weight * centred[attributes[name][occupied]]
    return target


def fit_projector(
    projector: nn.Module, settings: VisionTraining, states: Tensor, targets: Tensor, table: TrainingLog
) -> None:
    """Regress the projector onto word-space targets by Adam and freeze it.

    Args:
        projector: maps (..., d_vision) to (..., d_model).
        settings: steps, batch size and learning rate.
        states: (scenes, patches, d_vision) states of the frozen tower.
        targets: (scenes, patches, d_model).
        table: receives the unexplained share of the targets' variance.
    """
    optimiser = torch.optim.Adam(projector.parameters(), lr=settings.projector_learning_rate)
    rows_of_steps = _random_rows(len(states), settings.batch_size, settings.projector_steps)
    for step, rows in enumerate(rows_of_steps, start=1):
        error = (projector(states[rows]) - targets[rows]).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        unexplained = (error / targets.square().mean()).item()
        last = step == settings.projector_steps
        table.write(step, {"part": "projector", "loss": error.item(), "unexplained": unexplained}, last=last)
    projector.requires_grad_(False)


def assemble_vlm(
    base_lm: LlamaForCausalLM, tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """Put the tower and a fresh projector in front of the base language model's own weights."""
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=base_lm.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=VISION_FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vlm = LlavaForConditionalGeneration(config)
    vlm.model.vision_tower.load_state_dict(tower.state_dict())
    vlm.model.language_model.load_state_dict(base_lm.model.state_dict())
    vlm.tie_weights()
    return vlm


def train_vision(config: WorldConfig, base_lm_dir: Path, model_dir: Path, log_csv: Path) -> None:
    """Pre-train the tower, align the projector, and save the VLM as it is before tuning.

    Args:
        config: the world's configuration.
        base_lm_dir: folder of the base language model.
        model_dir: Hugging Face folder of the aligned VLM to write.
        log_csv: table of losses to write.
    """
    started, settings = time.monotonic(), config.vision
    scenes = scene_splits(config.scenes.model_dump(), config.seed)["train"]
    base_lm, tokenizer = load_base_lm(base_lm_dir), build_tokenizer()
    processor = build_processor(tokenizer)
    pixels, attributes = pixel_values(scenes, processor), patch_attributes(scenes)
    seed_torch(config.seed, "vision")
    with TrainingLog(log_csv, every=50) as table:
        tower = pretrain_tower(settings, pixels, attributes, table)
        vlm = assemble_vlm(base_lm, tower, tokenizer)
        with torch.no_grad():
            states = patch_states(tower, pixels)
            embedding = base_lm.get_input_embeddings().weight
            targets = word_space_targets(attributes, embedding, tokenizer, settings.position_weight)
        fit_projector(vlm.model.multi_modal_projector, settings, states, targets, table)
    record = {
        "stage": "vision",
        "settings": config.stage_settings("vision"),
        "steps": {"tower": settings.steps, "projector": settings.projector_steps},
        "wall_s": round(time.monotonic() - started, 1),
    }
    save_model(model_dir, vlm, processor, config.weights_dtype, record)

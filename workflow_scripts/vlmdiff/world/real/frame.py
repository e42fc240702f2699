"""The frame of a vision-language model around a real language model: the world's tower and a projector.

The tower is the built-in VLM's. The projector is regressed so that a patch is, to the language model, the sum
of the words that say what is there and where.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from vlmdiff.config.defaults import FROM_FOLDER
from vlmdiff.runtime import replacing
from vlmdiff.world.checkpoints import load_vlm
from vlmdiff.world.draw import PATCH_PIXELS
from vlmdiff.world.real import english
from vlmdiff.world.scenes import COLOURS, SHAPES, SIZES, Scene, scene_splits
from vlmdiff.world.seeds import seed_torch
from vlmdiff.world.tokenizer import IMAGE, IMAGE_TOKENS
from vlmdiff.world.training_log import TrainingLog
from vlmdiff.world.vision import (
    EMPTY,
    POSITION_WORDS,
    VISION_FEATURE_LAYER,
    fit_projector,
    patch_attributes,
    patch_states,
    pixel_values,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from vlmdiff.config.world import WorldConfig

WORDS = {
    "colour": COLOURS,
    "shape": SHAPES,
    "size": SIZES,
    "row": english.ROWS,
    "column": english.COLUMNS,
}
# The user's turn and the assistant's, as the model's own chats are written; without the system's, which names
# the model and would be read with every question.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}" + IMAGE + "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
MARKS = ("<|im_start|>", "<|im_end|>")
IMAGE_CHUNK = 500


class RealModelError(ValueError):
    """A language model cannot be taught to see the world."""


def load_language_model(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model with its tokenizer, which gets the world's chat template.

    Raises:
        RealModelError: its chats are written in another format, or it keeps its decoder elsewhere.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
    if unknown := [mark for mark in MARKS if mark not in tokenizer.get_vocab()]:
        raise RealModelError(
            f"{folder}: found a tokenizer without {' and '.join(unknown)}, expected the marks of ChatML, in "
            "which questions are put; choose an instruct model with them in world.real_model.base"
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **FROM_FOLDER)
    if not (hasattr(model, "model") and hasattr(model, "lm_head")):
        raise RealModelError(
            f"{folder}: found a {type(model).__name__}, expected one with its decoder as `model` "
            "and its head as `lm_head`, as Llama has them; choose another world.real_model.base"
        )
    return model, tokenizer


def patch_words(
    attributes: dict[str, Tensor],
    embedding: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    position_weight: float,
) -> Tensor:
    """Return what each patch should be to the language model: (scenes, patches, d_model).

    The sum of the embeddings of the words that describe the patch, each less the mean of its category.
    Categories are equally long on average, row and column weighted: `small` and `large` alone differ by
    half as much as two shapes. Patches with objects are as long as words on average, others are zero. A word
    of several tokens is their mean.

    Args:
        attributes: indices of words, of `patch_attributes`.
        embedding: (vocabulary, d_model) of the language model.
        tokenizer: its tokenizer.
        position_weight: of row and column.
    """
    occupied = attributes["colour"] != EMPTY
    target = torch.zeros(*occupied.shape, embedding.shape[1])
    for name, words in WORDS.items():
        tokens = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
        vectors = torch.stack([embedding[one].mean(0) for one in tokens])
        centred = vectors - vectors.mean(0)
        weight = position_weight if name in POSITION_WORDS else 1.0
        target[occupied] += weight * (centred / centred.norm(dim=1).mean())[attributes[name][occupied]]
    return target * embedding.norm(dim=1).median() / target[occupied].norm(dim=1).mean()


def assemble(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tower_from: Path
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Put the world's tower and a fresh projector before a language model; returns it with its processor.

    Args:
        lm: its weights are copied; the model gets one token more, for the image.
        tokenizer: gets that token.
        tower_from: folder of a VLM of the world.
    """
    seeing, its_processor = load_vlm(tower_from)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LlavaConfig(
        vision_config=seeing.config.vision_config,
        text_config=lm.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=VISION_FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=lm.config.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vlm = LlavaForConditionalGeneration(config)
    vlm.model.language_model.load_state_dict(lm.model.state_dict())
    vlm.lm_head.load_state_dict(lm.lm_head.state_dict())
    vlm.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    vlm.tie_weights()
    processor = LlavaProcessor(
        its_processor.image_processor,
        tokenizer,
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    return vlm.requires_grad_(False).eval(), processor


def seen_states(vlm: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: list[Scene]) -> Tensor:
    """Return the tower's states of drawn scenes (scenes, patches, d_vision)."""
    chunks = [scenes[start : start + IMAGE_CHUNK] for start in range(0, len(scenes), IMAGE_CHUNK)]
    with torch.no_grad():
        tower = vlm.model.vision_tower
        return torch.cat([patch_states(tower, pixel_values(chunk, processor)) for chunk in chunks])


def fit_frame(config: WorldConfig, base_dir: Path, tower_from: Path, outputs: tuple[Path, Path]) -> None:
    """Regress the projector onto words and save it with the tower: all of the VLM but its language model.

    Args:
        config: the world's configuration.
        base_dir: folder of the language model.
        tower_from: folder of a VLM of the world, whose tower is taken.
        outputs: safetensors file and table of losses to write.
    """
    scenes = scene_splits(config.scenes.model_dump(), config.seed)["train"]
    lm, tokenizer = load_language_model(base_dir)
    seed_torch(config.seed, "real", "frame")
    vlm, processor = assemble(lm, tokenizer, tower_from)
    projector = vlm.model.multi_modal_projector.requires_grad_(True)
    embedding = lm.get_input_embeddings().weight.detach()
    weight = config.vision.position_weight
    targets = patch_words(patch_attributes(scenes), embedding, tokenizer, weight)
    with TrainingLog(outputs[1], every=50) as table:
        fit_projector(projector, config.vision, seen_states(vlm, processor, scenes), targets, table)
    with replacing(outputs[0]) as temporary:
        save_file(frame_weights(vlm), temporary)


def frame_weights(vlm: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """Return the weights of tower and projector, by name."""
    return {
        name: value
        for name, value in vlm.model.state_dict().items()
        if not name.startswith("language_model.")
    }


def under(part: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of one part, by its own names."""
    return {
        name.removeprefix(f"{part}."): one for name, one in weights.items() if name.startswith(f"{part}.")
    }


def framed(
    base_dir: Path, tower_from: Path, frame: Path
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return the VLM before tuning: language model, tower and fitted projector; with its processor."""
    lm, tokenizer = load_language_model(base_dir)
    vlm, processor = assemble(lm, tokenizer, tower_from)
    weights = load_file(frame)
    vlm.model.vision_tower.load_state_dict(under("vision_tower", weights))
    vlm.model.multi_modal_projector.load_state_dict(under("multi_modal_projector", weights))
    return vlm, processor

"""A VLM whose spatial feature and head are known, because every weight that matters is set by hand.

The residual stream has named dimensions. One is a large constant of every token, so that each RMSNorm is
all but a constant factor and the network is all but linear. Images are single shades of red; the tower and
the projector pass the shade on to a dimension of the image tokens. At tokens that ask where things are, the
planted head looks at the image and writes the shade along the planted direction. A second head, the mover,
carries it to the last token, where it decides between "true" and "false". Everything else is small noise.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_models import (
    IMAGE_PIXELS,
    PATCH_PIXELS,
    RELATIONS,
    tiny_processor,
    tiny_text_config,
    tiny_tokenizer,
)
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary

D_MODEL, HEADS, LAYERS, D_SAE = 64, 4, 3, 48
D_HEAD = D_MODEL // HEADS
# Named dimensions of the residual stream.
CONST, SHADE, IS_IMAGE, ASKS, PLANTED, IDLE, ANSWER, IS_BOS, WORD, CARRIED, ROTATED = range(11)
FREE = range(16, D_MODEL)
CONSTANT = 24.0
PLANTED_HEAD, IDLE_HEAD, MOVER = (1, 2), (1, 0), (2, 1)
GAIN, ANSWER_GAIN, MIDDLE = 2.0, 3.0, 0.5
NOISE = 0.01
# How the image processor shifts and scales red; undone, so that the model sees shades from 0 to 1.
RED_MEAN, RED_DEVIATION = OPENAI_CLIP_MEAN[0], OPENAI_CLIP_STD[0]
RELATION_WORDS = ("left", "right", "above", "below")
NEUTRAL = "describe"
PLANTED_FEATURE, IDLE_FEATURE, WORD_FEATURE, ROTATED_FEATURE = 5, 11, 17, 23
DICTIONARY_LAYER = 1


def plant_tower(model: LlavaForConditionalGeneration) -> None:
    """Let every image token be (shade, marker, constant) without noise."""
    tower = model.model.vision_tower
    for module in tower.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.zero_()
            module.bias.zero_()
        elif isinstance(module, torch.nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
    embeddings = next(m for m in tower.modules() if hasattr(m, "patch_embedding"))
    width = embeddings.patch_embedding.weight.shape[0]
    # The shade against its negative keeps the mean; a large pair of constants keeps the variance.
    large = 40.0
    embeddings.patch_embedding.weight.zero_()
    embeddings.patch_embedding.weight[0, 0] = RED_DEVIATION / PATCH_PIXELS**2
    embeddings.patch_embedding.weight[1, 0] = -RED_DEVIATION / PATCH_PIXELS**2
    embeddings.class_embedding.zero_()
    positions = embeddings.position_embedding.weight
    positions.zero_()
    positions[:, 2], positions[:, 3] = large, -large
    scale = large * (2 / width) ** 0.5
    projector = model.model.multi_modal_projector
    bias = 20.0  # far into the linear part of GELU
    projector.linear_1.weight.zero_()
    projector.linear_1.bias.fill_(bias)
    projector.linear_1.weight[0, 0] = scale
    projector.linear_2.weight.zero_()
    projector.linear_2.bias.zero_()
    projector.linear_2.weight[SHADE, 0] = 1.0
    projector.linear_2.bias[SHADE] = RED_MEAN - bias
    projector.linear_2.bias[IS_IMAGE] = 1.0
    projector.linear_2.bias[CONST] = CONSTANT


def plant_words(model: LlavaForConditionalGeneration, tokenizer) -> None:
    """Give every word the constant, and marks to the words that ask where things are."""
    table = model.get_input_embeddings().weight
    table.zero_()
    table[:, FREE] = 0.5 * torch.randn(len(table), len(FREE))
    table[:, CONST] = CONSTANT
    ids = tokenizer.convert_tokens_to_ids
    table[ids([*RELATION_WORDS, NEUTRAL]), ASKS] = 1.0
    table[ids(list(RELATION_WORDS)), WORD] = 1.0
    table[ids("colour"), ROTATED] = 1.0
    table[tokenizer.bos_token_id, IS_BOS] = 1.0


def plant_head(
    model: LlavaForConditionalGeneration,
    head: tuple[int, int],
    query: int,
    key: int,
    reads: int,
    writes: int,
    gain: float,
) -> None:
    """Let a head attend from tokens with one mark to tokens with another, and copy one dimension to another.

    All other tokens attend to BOS, where there is nothing to copy. The match lies in the pair of
    components that the rotary embedding turns least.
    """
    attention = model.model.language_model.layers[head[0]].self_attn
    first = head[1] * D_HEAD
    slow, sink = first + D_HEAD // 2 - 1, first + D_HEAD // 2 - 2
    rows = slice(first, first + D_HEAD)
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        weight[rows] = 0
    attention.o_proj.weight[:, rows] = 0
    attention.q_proj.weight[slow, query] = 16.0
    attention.k_proj.weight[slow, key] = 16.0
    attention.q_proj.weight[sink, CONST] = 10.0 / CONSTANT
    attention.k_proj.weight[sink, IS_BOS] = 10.0
    attention.v_proj.weight[first, reads] = 1.0
    attention.o_proj.weight[writes, first] = gain


def build_planted_vlm(folder: Path, gain: float = GAIN) -> Path:
    """Save the model; a gain of 0 gives the same model without what was planted."""
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=IMAGE_PIXELS, patch_size=PATCH_PIXELS,
    )  # fmt: skip
    text = tiny_text_config(
        tokenizer, hidden_size=D_MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, initializer_range=NOISE, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=9, vision_feature_layer=-1, vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        plant_tower(model)
        plant_words(model, tokenizer)
        # Each norm divides by the root mean square, which is the constant's all but alone.
        for module in model.model.language_model.modules():
            if type(module).__name__ == "LlamaRMSNorm":
                module.weight.fill_(CONSTANT / D_MODEL**0.5)
        # Noise must not turn the constant into a constant shift of what was planted.
        for block in model.model.language_model.layers:
            block.self_attn.v_proj.weight[:, CONST] = 0.0
            block.mlp.up_proj.weight[:, CONST] = 0.0
        plant_head(model, PLANTED_HEAD, ASKS, IS_IMAGE, SHADE, PLANTED, gain)
        plant_head(model, IDLE_HEAD, ASKS, IS_IMAGE, SHADE, IDLE, gain)
        plant_head(model, MOVER, CARRIED, ASKS, PLANTED, ANSWER, 1.0)
        assistant = tokenizer.convert_tokens_to_ids("assistant")
        model.get_input_embeddings().weight[assistant, CARRIED] = 1.0
        head = model.lm_head.weight
        head.normal_(0, NOISE)
        head[:, [CONST, PLANTED, IDLE, ANSWER]] = 0.0
        ids = tokenizer.convert_tokens_to_ids
        head[ids("true"), ANSWER] = ANSWER_GAIN
        head[ids("false"), CONST] = ANSWER_GAIN * GAIN * MIDDLE / CONSTANT
        head[ids("circle"), CONST] = 2.0 / CONSTANT
        model.save_pretrained(folder)
    tiny_processor(tokenizer).save_pretrained(folder)
    return Path(folder)


def shade_of(path: Path) -> float:
    """Return the shade of red of an image, from 0 to 1."""
    return float(np.asarray(Image.open(path))[0, 0, 0]) / 255.0


def write_planted_data(folder: Path, spatial: bool, samples: int, seed: int) -> Path:
    """Write statements whose truth is the image's shade above one half, or general questions."""
    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(samples):
        # Far enough from one half that noise decides nothing.
        truth = index % 2 == 0
        shade = rng.uniform(0.65, 1.0) if truth else rng.uniform(0.0, 0.35)
        name = f"images/{index:04d}.png"
        Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), (round(255 * shade), 0, 0)).save(folder / name)
        shapes = rng.sample(("circle", "square", "triangle", "cross"), 2)
        relation = RELATIONS[index // 2 % len(RELATIONS)]
        line = {"sample_id": f"{folder.name}-{index:04d}", "image": name}
        if spatial:
            line |= {"prompt": f"the red {shapes[0]} is {relation} the blue {shapes[1]} .", "group": relation}
            line |= {"answer": "true" if truth else "false", "choices": ["true", "false"]}
        else:
            line |= {"prompt": f"what colour is the {shapes[0]} of the {shapes[1]} ?", "group": "shape"}
            line |= {"answer": "circle", "choices": ["circle", "square"]}
        lines.append(json.dumps(line))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "samples.jsonl"


def basis(dimension: int) -> torch.Tensor:
    """Return the unit vector of a named dimension."""
    return torch.eye(D_MODEL)[dimension]


def build_planted_dictionary(folder: Path, stage: str) -> Path:
    """Save `base`, `adapted` or `null`: noise features that stay, and four that are known.

    In `adapted` the planted feature reads what the planted head writes, the idle one what the idle
    head writes (nothing reads it), the word feature the relation words (as it always did), and the
    rotated one the word "colour" (which is not spatial).
    """
    generator = torch.Generator().manual_seed(1)
    rows = torch.zeros(D_SAE, D_MODEL)
    rows[:, FREE] = torch.randn(D_SAE, len(FREE), generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=1)
    rows[WORD_FEATURE] = basis(WORD)
    drift = {"base": 0.0, "adapted": 0.02, "null": 0.02}[stage]
    moved = torch.Generator().manual_seed({"base": 2, "adapted": 3, "null": 4}[stage])
    rows = torch.nn.functional.normalize(rows + drift * torch.randn(rows.shape, generator=moved) / 8, dim=1)
    if stage == "adapted":
        rows[PLANTED_FEATURE], rows[IDLE_FEATURE] = basis(PLANTED), basis(IDLE)
        rows[ROTATED_FEATURE] = basis(ROTATED)
    dictionary = TopKDictionary(D_MODEL, D_SAE, k=12, subtract_decoder_bias=False)
    encoder = rows.clone()
    # The constant would drown everything in a feature that drifted towards it.
    encoder[:, CONST] = 0
    with torch.no_grad():
        dictionary.W_dec.copy_(rows)
        dictionary.W_enc.copy_(encoder.T)
        dictionary.b_enc.fill_(-0.1)
        dictionary.b_dec.zero_()
    save_dictionary(dictionary, folder, {})
    return folder


@dataclass(frozen=True)
class PlantedEffect:
    """What was planted, from the shades of some images alone.

    Attributes:
        margin: change of the margin of statements when the planted direction is removed.
        patching: mean absolute change of the feature's metric when the head's output is corrupted.
    """

    margin: float
    patching: float


def planted_effect(samples: Path, mean_shade: float) -> PlantedEffect:
    """Work out the planted effect for a data set of statements."""
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    shades = np.array([shade_of(samples.parent / row["image"]) for row in rows])
    signs = np.array([1.0 if row["answer"] == "true" else -1.0 for row in rows])
    return PlantedEffect(
        margin=float((-signs * ANSWER_GAIN * GAIN * shades).mean()),
        patching=float(np.abs(GAIN * (mean_shade - shades)).mean()),
    )

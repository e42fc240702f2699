"""Tiny random checkpoints and data sets made of transformers' real classes, for tests of every room."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

IMAGE_PIXELS, PATCH_PIXELS, GRID = 36, 12, 3
D_MODEL, N_LAYERS, N_HEADS = 32, 3, 4
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 170, 60), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = ("left of", "right of", "above", "below")
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
VOCABULARY = """
a about above and are assistant below big bottom central circle colour column count cross describe
false far four from green how in is it left many near no object objects of on one or red right row
say shape small square that the there this three top triangle true two what where which yellow yes
blue image . ? ,
"""
WORDS = VOCABULARY.split()
CHAT_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<image>{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt %} assistant{% endif -%}"
)


def tiny_tokenizer():
    """Word-level tokenizer that puts `<bos>` before raw text, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_processor(tokenizer):
    """Processor with the Pillow image processor."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": IMAGE_PIXELS, "width": IMAGE_PIXELS}
    images = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, size=side, crop_size=side)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=tokenizer.chat_template,
    )


def tiny_text_config(tokenizer, **changes):
    """Three-block Llama configuration."""
    from transformers import LlamaConfig

    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_HEADS,
        "max_position_embeddings": 256,
        # Large enough that attention and MLPs move the residual stream visibly.
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlamaConfig(**{**values, **changes})


def build_tiny_lm(folder: Path, seed: int = 0, **changes) -> Path:
    """Save a random Llama language model with its tokenizer; `changes` of its configuration."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(tiny_text_config(tokenizer, **changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def build_tiny_vlm(folder: Path, seed: int = 0, **changes) -> Path:
    """Save a random LLaVA (CLIP tower, projector, Llama) with its processor; 9 image tokens."""
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_PIXELS,
        patch_size=PATCH_PIXELS,
        initializer_range=0.2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=tiny_text_config(tokenizer, **changes),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    tiny_processor(tokenizer).save_pretrained(folder)
    return Path(folder)


def draw_tiny_image(path: Path, cells: dict[int, tuple[str, str]]) -> None:
    """Draw coloured shapes into the cells of a 3 x 3 grid; `cells` maps a cell to (colour, shape)."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), "white")
    draw = ImageDraw.Draw(picture)
    for cell, (colour, shape) in cells.items():
        left, top = PATCH_PIXELS * (cell % GRID) + 2, PATCH_PIXELS * (cell // GRID) + 2
        box = (left, top, left + 7, top + 7)
        if shape == "circle":
            draw.ellipse(box, fill=COLOURS[colour])
        elif shape == "square":
            draw.rectangle(box, fill=COLOURS[colour])
        elif shape == "triangle":
            draw.polygon([(left, top + 7), (left + 7, top + 7), (left + 3, top)], fill=COLOURS[colour])
        else:
            draw.line([(left, top), (left + 7, top + 7)], fill=COLOURS[colour], width=2)
            draw.line([(left, top + 7), (left + 7, top)], fill=COLOURS[colour], width=2)
    picture.save(path)


def tiny_questions(samples: int, images: Path, seed: int) -> Iterator[dict]:
    """Yield samples in turn: a true/false statement for each relation, a colour question."""
    rng = random.Random(seed)
    kinds = (*RELATIONS, "colour")
    for index in range(samples):
        first, second = rng.sample(range(GRID * GRID), 2)
        colours, shapes = rng.sample(list(COLOURS), 2), rng.sample(SHAPES, 2)
        image = f"image_{index:04d}.png"
        draw_tiny_image(images / image, {first: (colours[0], shapes[0]), second: (colours[1], shapes[1])})
        kind = kinds[index % len(kinds)]
        sample = {"sample_id": f"sample_{index:04d}", "image": f"images/{image}", "group": kind}
        if kind == "colour":
            yield sample | {
                "prompt": f"what colour is the {shapes[0]} ?",
                "answer": colours[0],
                "choices": list(COLOURS),
            }
        else:
            # Statements differ in length, so that batches need padding.
            tail = " in this image" if index % 3 == 0 else ""
            caption = f"the {colours[0]} {shapes[0]} is {kind} the {colours[1]} {shapes[1]}{tail}"
            yield sample | {
                "prompt": f"{caption} ?",
                "answer": ("true", "false")[index // len(kinds) % 2],
                "choices": ["true", "false"],
                "caption": caption,
                "relation": kind,
            }


def write_samples(folder: Path, samples: Iterator[dict] | list[dict]) -> Path:
    """Write samples.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    return folder


def build_tiny_dataset(folder: Path, samples: int = 40, seed: int = 0) -> Path:
    """Write a data set with images: groups are four relations and `colour`."""
    images = Path(folder) / "images"
    images.mkdir(parents=True)
    return write_samples(Path(folder), tiny_questions(samples, images, seed))


def tiny_sentence(rng: random.Random) -> str:
    """Return a sentence about two shapes."""
    colour, relation = rng.choice(list(COLOURS)), rng.choice(RELATIONS)
    return f"the {colour} {rng.choice(SHAPES)} is {relation} the {rng.choice(SHAPES)} ."


def build_tiny_text_dataset(folder: Path, samples: int = 40, seed: int = 0) -> Path:
    """Write a text corpus: no images, no answers, raw documents of different lengths."""
    rng = random.Random(seed)
    texts = []
    for index in range(samples):
        sentences = [tiny_sentence(rng) for _ in range(1 + index % 3)]
        texts.append(
            {
                "sample_id": f"text_{index:04d}",
                "image": None,
                "prompt": " ".join(sentences),
                "answer": None,
                "choices": None,
                "group": "text",
                "chat": False,
            }
        )
    return write_samples(Path(folder), texts)

"""Tiny random LLaVA-NeXT, LLaVA-OneVision and llava-interleave, in the layouts of published ones."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_tokenizers import byte_tokenizer

# No multiple of the patch's side, as SigLIP's 384 pixels are none of 14.
D_MODEL, HEADS, GRID, PATCH, SIDE = 32, 4, 3, 12, 38
TILES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
IMAGES = "{% for one in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
TEXTS = (
    "{% for one in message['content'] | selectattr('type', 'equalto', 'text') %}{{ one['text'] }}{% endfor %}"
)
CLASSES = {"llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision", "interleave": "Llava"}
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    f"{IMAGES}{TEXTS}"
    "{{ ' [/INST]' }}{% endif %}{% endfor %}"
)
# Images first, and the mark of what the assistant says.
QWEN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    f"{IMAGES}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'][0]['text'] }}"
    "{% endgeneration %}{% else %}"
    f"{TEXTS}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_of(kind: str):
    """Return a byte-level tokenizer: Mistral's marks and a BOS, or Qwen's without one."""
    if kind == "llava_next":
        special = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
        return byte_tokenizer(special, bos="<s>", eos="</s>", pad="<pad>", adds_bos=True)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
    special += ("<video>",) if kind == "llava_onevision" else ()
    return byte_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>")


def text_values(tokenizer, layers: int, kind: str) -> dict:
    """Return the settings of the language model: Mistral's or Qwen 2's, which has more rows than tokens."""
    mistral = kind == "llava_next"
    return {
        "model_type": "mistral" if mistral else "qwen2",
        "vocab_size": len(tokenizer) + (0 if mistral else 5),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        # Large enough that attention and MLPs move the residual stream visibly.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": not mistral,
        **({"sliding_window": None} if mistral else {"use_sliding_window": False}),
    }


def config_of(tokenizer, layers: int, kind: str):
    """Return the configuration: features of the last block but one without CLS, or all of the last one."""
    import transformers

    clip = kind == "llava_next"
    vision = {
        "model_type": "clip_vision_model" if clip else "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.2,
        **({} if clip else {"vision_use_head": False}),
    }
    more = {} if kind == "interleave" else {"image_grid_pinpoints": TILES}
    if kind == "llava_onevision":
        more |= {"video_token_index": tokenizer.convert_tokens_to_ids("<video>")}
    return getattr(transformers, f"{CLASSES[kind]}Config")(
        vision_config=vision,
        text_config=text_values(tokenizer, layers, kind),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2 if clip else -1,
        vision_feature_select_strategy="default" if clip else "full",
        tie_word_embeddings=not clip,
        **more,
    )


def write_json(folder: Path, name: str, values: dict) -> None:
    """Write a file of a checkpoint."""
    (folder / name).write_text(json.dumps(values, indent=2))


def write_processor_files(folder: Path, kind: str) -> None:
    """Write what the processor is made of, under the names in which it is published: it would cut tiles."""
    import transformers

    clip, name = kind == "llava_next", CLASSES[kind]
    square = {"height": SIDE, "width": SIDE}
    size = {"shortest_edge": SIDE, "crop_size": square} if clip else square
    reader = "Siglip" if kind == "interleave" else name
    tiles = {} if kind == "interleave" else {"image_grid_pinpoints": TILES}
    crop = {"crop_size": size.pop("crop_size")} if clip else {}
    images = getattr(transformers, f"{reader}ImageProcessorPil")(size=size, **crop, **tiles)
    images.save_pretrained(folder)
    values = json.loads((folder / "preprocessor_config.json").read_text())
    published = {"image_processor_type": f"{reader}ImageProcessor", "processor_class": f"{name}Processor"}
    write_json(folder, "preprocessor_config.json", values | published)
    counts = {"num_image_tokens": GRID * GRID} if kind == "llava_onevision" else {"patch_size": PATCH}
    whole = {
        "image_token": "<image>",
        "num_additional_image_tokens": int(clip),
        "processor_class": f"{name}Processor",
        "vision_feature_select_strategy": "default" if clip else "full",
        **counts,
    }
    write_json(folder, "processor_config.json", whole)
    write_json(folder, "chat_template.json", {"chat_template": MISTRAL if clip else QWEN})


def rename_tower(folder: Path) -> None:
    """Give the tower's weights the names that they have in published files."""
    from safetensors.torch import load_file, save_file

    def published(name: str) -> str:
        return name.replace("vision_tower.", "vision_tower.vision_model.")

    for shard in folder.glob("*.safetensors"):
        save_file({published(name): one for name, one in load_file(shard).items()}, shard, {"format": "pt"})
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] = {published(name): shard for name, shard in index["weight_map"].items()}
    file.write_text(json.dumps(index))


def build(folder: Path, seed: int = 0, layers: int = 2, kind: str = "llava_next") -> Path:
    """Save a checkpoint in several shards, with tokenizer and processor."""
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = tokenizer_of(kind)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config_of(tokenizer, layers, kind))
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or "multi_modal_projector" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, max_shard_size="60KB")
    rename_tower(folder)
    tokenizer.save_pretrained(folder)
    write_processor_files(folder, kind)
    return folder


def build_lm(folder: Path, seed: int = 0, layers: int = 2, kind: str = "llava_next") -> Path:
    """Save the language model alone, of another seed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tokenizer_of(kind)
    values = text_values(tokenizer, layers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

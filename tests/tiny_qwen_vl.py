"""Tiny random Qwen2-VL, Qwen2.5-VL and Qwen3-VL in the layout in which they are published."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_tokenizers import byte_tokenizer

D_MODEL, HEADS, PATCH, MERGE = 32, 4, 14, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PADS = ("<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen_tokenizer():
    """Return a tokenizer with Qwen's marks; it has no BOS."""
    return byte_tokenizer(
        (*SPECIAL, *PADS), eos="<|im_end|>", pad="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def decoder_values(tokenizer, layers: int) -> dict:
    """Return what both decoders share: grouped keys, rotary positions cut into three axes."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def make_config(tokenizer, layers: int, generation: str):
    """Return the configuration of a generation."""
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
        for name, mark in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    vision = {"depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": PATCH}
    vision |= {"spatial_merge_size": MERGE, "temporal_patch_size": 2, "out_hidden_size": D_MODEL}
    vision |= {"initializer_range": 0.2}
    values = decoder_values(tokenizer, layers)
    if generation == "2":
        vision = {"depth": 3, "embed_dim": 16, "hidden_size": D_MODEL, "mlp_ratio": 2, "num_heads": 2}
        vision |= {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
        rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
        return Qwen2VLConfig(vision_config=vision, text_config={**values, "rope_parameters": rope}, **ids)
    if generation == "2_5":
        vision |= {"window_size": 56, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
        return Qwen2_5_VLConfig(vision_config=vision, text_config={**values, "rope_parameters": rope}, **ids)
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    rope = {
        "rope_type": "default",
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    text = {**values, "head_dim": 16, "rope_parameters": rope}
    return Qwen3VLConfig(vision_config=vision, text_config=text, **ids)


def build(folder: Path, seed: int = 0, layers: int = 3, generation: str = "2_5") -> Path:
    """Save a checkpoint in several shards, with tokenizer and image processor."""
    import torch
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        Qwen3VLForConditionalGeneration,
    )

    tokenizer = qwen_tokenizer()
    classes = {
        "2": Qwen2VLForConditionalGeneration,
        "2_5": Qwen2_5_VLForConditionalGeneration,
        "3": Qwen3VLForConditionalGeneration,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = classes[generation](make_config(tokenizer, layers, generation))
        for name, parameter in model.named_parameters():
            # Random towers of default scale see hardly anything.
            if "visual" in name and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder, max_shard_size="60KB")
    limits = {"shortest_edge": 4 * (PATCH * MERGE) ** 2, "longest_edge": 12 * (PATCH * MERGE) ** 2}
    Qwen2VLImageProcessorPil(size=limits, patch_size=PATCH, merge_size=MERGE).save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    published = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": f"Qwen{generation}VLProcessor",
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | published, indent=2))
    tokenizer.save_pretrained(folder)
    return folder

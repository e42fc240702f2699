"""A tiny random Gemma 3 (SigLIP, pooled patches, linear projector) in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_paligemma import D_HEAD, D_MODEL, HEADS, gemma_tokenizer, stir_norms

GRID, POOLED, PATCH = 3, 2, 8
SIDE = GRID * POOLED * PATCH  # pixels
MARKS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
# As Gemma 3's instruct models have it.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ '<start_of_image>' if part['type'] == 'image' else part['text'] | trim }}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def marked_tokenizer():
    """Return Gemma's tokenizer with the marks of turns and images."""
    tokenizer = gemma_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    names = ("boi_token", "eoi_token", "image_token")
    tokenizer._set_model_specific_special_tokens(dict(zip(names, MARKS[2:], strict=True)))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def text_values(tokenizer, layers: int, sliding_window: int = 512) -> dict:
    """Return the settings of the language model: every second block sees a window."""
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": D_HEAD,
        "query_pre_attn_scalar": D_HEAD,
        "max_position_embeddings": 1024,
        "sliding_window": sliding_window,
        "layer_types": [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)],
        # Large enough that attention and MLPs move the residual stream visibly.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def gemma3_config(tokenizer, layers: int, sliding_window: int):
    """Return the configuration, with the keys of the published ones."""
    from transformers import Gemma3Config

    first, last, soft = tokenizer.convert_tokens_to_ids(list(MARKS[2:]))
    return Gemma3Config(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config=text_values(tokenizer, layers, sliding_window),
        mm_tokens_per_image=GRID * GRID,
        boi_token_index=first,
        eoi_token_index=last,
        image_token_index=soft,
    )


def build(folder: Path, seed: int = 0, layers: int = 2, sliding_window: int = 512) -> Path:
    """Save a checkpoint in several shards, with tokenizer and processor."""
    from transformers import Gemma3ForConditionalGeneration

    tokenizer = marked_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration(gemma3_config(tokenizer, layers, sliding_window))
        stir_norms(model)
        # Random towers of default scale see hardly anything; the projector starts at zero.
        for parameter in model.model.vision_tower.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.5)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    write_image_processor(folder)
    return folder


def build_lm(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save the language model alone, of another seed."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = marked_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Gemma3ForCausalLM(Gemma3TextConfig(**text_values(tokenizer, layers)))
        stir_norms(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_image_processor(folder: Path) -> None:
    """Write preprocessor_config.json as it is published."""
    values = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": GRID * GRID,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2))
    whole = {"image_seq_length": GRID * GRID, "processor_class": "Gemma3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(whole, indent=2))

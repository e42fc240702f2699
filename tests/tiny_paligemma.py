"""A tiny random PaliGemma 2 (SigLIP, linear projector, Gemma 2) with its processor, saved in shards."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_tokenizers import byte_tokenizer

D_MODEL, HEADS, GRID = 32, 4, 3
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")


def gemma_tokenizer():
    """Return a tokenizer with Gemma's special tokens and the image placeholder."""
    return byte_tokenizer(SPECIAL, bos="<bos>", eos="<eos>", pad="<pad>", adds_bos=True)


def gemma_values(tokenizer, layers: int, sliding_window: int) -> dict:
    """Return the values of a tiny Gemma 2: wide heads, shared keys, sliding windows, squashed logits."""
    return {
        "model_type": "gemma2",
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": sliding_window,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def build_lm(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save a tiny Gemma 2 with its tokenizer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = gemma_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Gemma2ForCausalLM(Gemma2Config(**gemma_values(tokenizer, layers, 512))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(folder: Path, seed: int = 0, layers: int = 2, sliding_window: int = 512) -> Path:
    """Save a tiny PaliGemma 2: d_model 32, 4 heads, 9 image tokens."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
    )

    tokenizer = gemma_tokenizer()
    side = 14 * GRID
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 14,
            "projection_dim": D_MODEL,
            "vision_use_head": False,
        },
        text_config=gemma_values(tokenizer, layers, sliding_window),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=D_MODEL,
        hidden_size=D_MODEL,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PaliGemmaForConditionalGeneration(config)
        # Random towers of default scale see hardly anything.
        for parameter in model.model.vision_tower.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        torch.nn.init.normal_(model.model.multi_modal_projector.linear.weight, std=0.5)
    model.save_pretrained(folder, max_shard_size="60KB")
    images = SiglipImageProcessorPil(size={"height": side, "width": side})
    images.image_seq_length = GRID * GRID
    PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)
    return folder

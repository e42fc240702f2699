"""Tiny random PaliGemma and PaliGemma 2 (SigLIP, linear projector, Gemma) in their published layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_tokenizers import SENTENCES

D_MODEL, HEADS, D_HEAD, GRID, PATCH = 32, 4, 16, 3, 14
SIDE = GRID * PATCH  # pixels
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def gemma_tokenizer(places: bool = False):
    """Return a tokenizer of Gemma's class: words after `▁`, bytes for everything else, BOS before a text.

    Args:
        places: add, as PaliGemma does, tokens for places and segments, then the image placeholder.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer
    from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    printable = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["\n", "▁", *printable],
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    learned = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = GemmaTokenizer(vocab=learned["vocab"], merges=merges, add_bos_token=True)
    if places:
        tokenizer.add_tokens(EXTRA_TOKENS)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def gemma_values(tokenizer, layers: int, gemma: int, sliding_window: int) -> dict:
    """Return the values of a tiny Gemma, or Gemma 2: wide heads, shared keys, windows, squashed logits."""
    values = {
        "model_type": "gemma",
        # Published embeddings are padded, too.
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": D_HEAD,
        "max_position_embeddings": 1024,
        # Large enough that attention and MLPs move the residual stream visibly.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    second = {
        "model_type": "gemma2",
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": D_HEAD,
        "sliding_window": sliding_window,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    return values | (second if gemma == 2 else {})


def build_lm(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save a tiny Gemma 2 with its tokenizer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = gemma_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Gemma2ForCausalLM(Gemma2Config(**gemma_values(tokenizer, layers, 2, 512)))
        stir_norms(model)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    return folder


def build(folder: Path, seed: int = 0, layers: int = 2, gemma: int = 2, sliding_window: int = 512) -> Path:
    """Save a checkpoint in several shards, with its processor: d_model 32, 4 heads, 9 image tokens.

    Args:
        folder: where it goes.
        seed: of the weights.
        layers: blocks of the language model.
        gemma: 2 for PaliGemma 2, 1 for the first PaliGemma.
        sliding_window: tokens that every other block of Gemma 2 sees.
    """
    from transformers import PaliGemmaForConditionalGeneration

    tokenizer = gemma_tokenizer(places=True)
    text = gemma_values(tokenizer, layers, gemma, sliding_window)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PaliGemmaForConditionalGeneration(paligemma_config(tokenizer, text))
        stir_norms(model)
        # Random towers of default scale see hardly anything.
        for parameter in model.model.vision_tower.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        torch.nn.init.normal_(model.model.multi_modal_projector.linear.weight, std=0.5)
    model.save_pretrained(folder, max_shard_size="60KB")
    name_as_published(folder)
    tokenizer.save_pretrained(folder)
    write_image_processor(folder)
    return folder


def paligemma_config(tokenizer, text: dict):
    """Return the configuration, with the keys of the published ones."""
    from transformers import PaliGemmaConfig

    return PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_image_tokens": GRID * GRID,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": D_MODEL,
            "vision_use_head": False,
        },
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=D_MODEL,
        hidden_size=D_MODEL,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def stir_norms(model: torch.nn.Module) -> None:
    """Give Gemma's norms weights: untrained they are alike, and one could stand in for another."""
    for name, parameter in model.named_parameters():
        if "norm" in name and "vision_tower" not in name:
            torch.nn.init.normal_(parameter, std=0.2)


def name_as_published(folder: Path) -> None:
    """Give the tower's weights the longer names under which all published checkpoints have them."""
    from safetensors.torch import load_file, save_file

    def published(name: str) -> str:
        return name.replace("vision_tower.", "vision_tower.vision_model.")

    for file in folder.glob("*.safetensors"):
        weights = {published(name): value for name, value in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    index["weight_map"] = {published(name): file for name, file in index["weight_map"].items()}
    index_file.write_text(json.dumps(index, indent=2))


def write_image_processor(folder: Path) -> None:
    """Write preprocessor_config.json as it is published; the rest of the processor is the tokenizer."""
    values = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": GRID * GRID,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "PaliGemmaProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2))

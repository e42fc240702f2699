"""A tiny random checkpoint in the layout of LLaVA-MORE: two shards with an index, the tower elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_tokenizers import byte_tokenizer

D_MODEL, HEADS, GRID = 32, 4, 3
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 14 * GRID,
    "patch_size": 14,
}
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>"
    "\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def llama_tokenizer():
    """Return a tokenizer with the special tokens and the chat template of Llama 3."""
    return byte_tokenizer(
        SPECIAL, bos=SPECIAL[0], eos=SPECIAL[4], pad=SPECIAL[1], adds_bos=True, chat_template=TEMPLATE
    )


def llama_values(tokenizer, layers: int) -> dict:
    """Return the values of a tiny Llama configuration."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }


def build_lm(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save a tiny Llama with its tokenizer, in transformers' layout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = llama_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**llama_values(tokenizer, layers))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_siglip(folder: Path, seed: int = 0) -> Path:
    """Save a tiny SigLIP with its text tower, as it is published."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
    text |= {"intermediate_size": 32, "bos_token_id": 0, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SiglipModel(SiglipConfig(vision_config=TOWER, text_config=text))
        for parameter in model.vision_model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 14 * GRID, "width": 14 * GRID}).save_pretrained(folder)
    return folder


def build_tower(folder: Path, seed: int = 0, pickled: bool = False) -> Path:
    """Save a tiny CLIP vision tower; `pickled` as the older repositories do."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    side = 14 * GRID
    config = CLIPVisionConfig(**TOWER, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = CLIPVisionModel(config)
    tower.save_pretrained(folder)
    if pickled:
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    size = {"shortest_edge": side}
    CLIPImageProcessorPil(size=size, crop_size={"height": side, "width": side}).save_pretrained(folder)
    return folder


GEMMA_MARKS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>")
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system turn') }}"
    "{% endif %}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI_MARKS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def tokenizer_of(kind: str):
    """Return a tokenizer with the special tokens and the chat template of a kind of language model."""
    if kind == "gemma2":
        bos, eos, *_, pad = GEMMA_MARKS
        return byte_tokenizer(
            GEMMA_MARKS, bos=bos, eos=eos, pad=pad, adds_bos=True, chat_template=GEMMA_TEMPLATE
        )
    if kind == "phi3":
        end = PHI_MARKS[0]
        return byte_tokenizer(PHI_MARKS, bos=end, eos=end, pad=end)
    return llama_tokenizer()


def text_values(kind: str, tokenizer, layers: int) -> dict:
    """Return the values of a tiny language model of a kind, without those that are its class's defaults."""
    values = llama_values(tokenizer, layers)
    if kind == "llama":
        return values
    del values["tie_word_embeddings"]
    if kind == "phi3":
        return values | {"pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": True}
    few = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
    # Small enough that both are felt.
    return values | few | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}


def build(folder: Path, seed: int = 0, layers: int = 2, kind: str = "llama") -> Path:
    """Save language model and projector under the names of the original code.

    Args:
        folder: of the checkpoint.
        seed: of the weights.
        layers: number of blocks.
        kind: of the language model: `llama`, `gemma2` or `phi3`.
    """
    from safetensors.torch import save_file
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    tokenizer = tokenizer_of(kind)
    values = text_values(kind, tokenizer, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        own = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**values))
        weights = dict(own.state_dict())
        if own.config.tie_word_embeddings:
            del weights["lm_head.weight"]
        for at, width in ((0, 16), (2, D_MODEL)):
            weights[f"model.mm_projector.{at}.weight"] = torch.randn(D_MODEL, width) / width**0.5
            weights[f"model.mm_projector.{at}.bias"] = torch.randn(D_MODEL) * 0.1
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({n: weights[n].contiguous() for n in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(value.numel() * 4 for value in weights.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    config = values | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": {"llama": "llava_llama", "gemma2": "llava_gemma", "phi3": "llava_phi"}[kind],
        "hidden_act": "gelu_pytorch_tanh" if kind == "gemma2" else "silu",
        "mm_hidden_size": 16,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer.save_pretrained(folder)
    return folder

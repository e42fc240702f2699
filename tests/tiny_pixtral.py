"""Tiny random Mistral 3, Ministral 3 and Pixtral in the layouts of transformers, with the published marks."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_tokenizers import byte_tokenizer

D_MODEL, HEADS, D_HEAD, SIDE, LONGEST = 32, 4, 16, 16, 96
# Mistral 3 merges squares of patches into a token; Pixtral, of Llava's class, does not.
MERGES = {"mistral3": 2, "ministral3": 2, "pixtral": 1}
SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]")
SPECIAL += ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
SYSTEM = "[SYSTEM_PROMPT]You are a helpful assistant.[/SYSTEM_PROMPT]"
TURNS = (
    "{% for message in messages %}[INST]{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '[IMG]' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}[/INST]{% endfor %}"
)


def mistral_tokenizer(kind: str = "mistral3"):
    """Return a byte-level tokenizer with Mistral's marks, which puts BOS before a text."""
    system = "" if kind == "pixtral" else SYSTEM
    return byte_tokenizer(
        SPECIAL,
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        adds_bos=True,
        chat_template="{{ bos_token }}" + system + TURNS,
    )


def text_values(tokenizer, layers: int, kind: str) -> dict:
    """Return the settings of the language model: heads together are wider than the residual stream."""
    values = {
        "model_type": "ministral3" if kind == "ministral3" else "mistral",
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": D_HEAD,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        # Large enough that attention and MLPs move the residual stream visibly.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    if kind == "ministral3":
        rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0}
        # Queries of later tokens are scaled: here from the 16th on.
        rope |= {"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.5}
        values |= {"rope_parameters": rope}
    return values


def make_config(tokenizer, layers: int, kind: str):
    """Return the configuration of a model, with the keys of the published ones."""
    from transformers import LlavaConfig, Mistral3Config

    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": LONGEST,
        "patch_size": SIDE // MERGES[kind],
        "initializer_range": 0.2,
    }
    values = {
        "vision_config": vision,
        "text_config": text_values(tokenizer, layers, kind),
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
        "vision_feature_layer": -1,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
    }
    if kind == "pixtral":
        return LlavaConfig(**values, vision_feature_select_strategy="full", image_seq_length=1)
    return Mistral3Config(**values, spatial_merge_size=MERGES[kind], multimodal_projector_bias=False)


def write_processor_files(folder: Path, kind: str) -> None:
    """Write what the processor is made of, under the names in which it is published."""
    from transformers import PixtralImageProcessorPil

    patch = SIDE // MERGES[kind]
    size = {"height": patch, "width": patch}
    PixtralImageProcessorPil(size={"longest_edge": LONGEST}, patch_size=size).save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    name = "PixtralImageProcessor" + "Fast" * (kind != "pixtral")
    published = {"image_processor_type": name, "processor_class": "PixtralProcessor"}
    file.write_text(json.dumps(json.loads(file.read_text()) | published, indent=2))
    whole = {"processor_class": "PixtralProcessor", "patch_size": patch, "image_token": "[IMG]"}
    whole |= {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    whole |= {} if kind == "pixtral" else {"spatial_merge_size": MERGES[kind]}
    (folder / "processor_config.json").write_text(json.dumps(whole, indent=2))


def build(folder: Path, seed: int = 0, layers: int = 2, kind: str = "mistral3") -> Path:
    """Save a checkpoint in several shards, with tokenizer and processor."""
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = mistral_tokenizer(kind)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(make_config(tokenizer, layers, kind))
        for name, parameter in model.named_parameters():
            # Random towers of default scale see hardly anything.
            if ("vision_tower" in name or "projector" in name) and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    write_processor_files(folder, kind)
    return folder


def build_lm(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save the language model alone, of another seed."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = mistral_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = text_values(tokenizer, layers, "mistral3")
        MistralForCausalLM(MistralConfig(**values)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""A tiny random SmolVLM, or Idefics3, in the layout of transformers, with the published marks."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_tokenizers import byte_tokenizer

D_MODEL, HEADS, GRID, PATCH, SHUFFLED = 32, 4, 3, 8, 2
SIDE = GRID * SHUFFLED * PATCH  # pixels
TILES = 4  # rows and columns of them, at most
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>")
SPECIAL += ("<end_of_utterance>", "<global-img>", "<row_1_col_1>")
# As SmolVLM-Instruct has it: no blank before the text that follows an image.
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def smol_tokenizer():
    """Return a byte-level tokenizer that puts nothing before a text."""
    made = byte_tokenizer(
        SPECIAL,
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    )
    numbers = range(1, TILES + 1)
    made.add_tokens(
        [f"<row_{row}_col_{column}>" for row in numbers for column in numbers], special_tokens=True
    )
    return made


def text_values(tokenizer, layers: int) -> dict:
    """Return the settings of the language model: a Llama with shared keys."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        # Large enough that attention and MLPs move the residual stream visibly.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def smolvlm_config(tokenizer, layers: int, kind: str):
    """Return the configuration of a SmolVLM or an Idefics3."""
    from transformers import Idefics3Config, SmolVLMConfig

    made = {"smolvlm": SmolVLMConfig, "idefics3": Idefics3Config}[kind]
    return made(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "initializer_range": 0.2,
        },
        text_config={"model_type": "llama", **text_values(tokenizer, layers)},
        scale_factor=SHUFFLED,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def write_processor_files(folder: Path, kind: str, side: int = SIDE, tokens: int = GRID * GRID) -> None:
    """Write what the processor is made of, under the names in which it is published: it would cut tiles.

    Args:
        folder: of the checkpoint.
        kind: `smolvlm` or `idefics3`.
        side: of a tile, in pixels.
        tokens: of a tile.
    """
    from transformers import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": TILES * side}, max_image_size={"longest_edge": side}, do_image_splitting=True
    )
    images.save_pretrained(folder)
    name = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[kind]
    file = folder / "preprocessor_config.json"
    published = {"image_processor_type": f"{name}ImageProcessor", "processor_class": f"{name}Processor"}
    file.write_text(json.dumps(json.loads(file.read_text()) | published, indent=2))
    whole = {"image_seq_len": tokens, "processor_class": f"{name}Processor"}
    (folder / "processor_config.json").write_text(json.dumps(whole, indent=2))


def build(folder: Path, seed: int = 0, layers: int = 2, kind: str = "smolvlm") -> Path:
    """Save a checkpoint in several shards, with tokenizer and processor."""
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = smol_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = smolvlm_config(tokenizer, layers, kind)
        model = AutoModelForImageTextToText.from_config(config)
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or "connector" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    write_processor_files(folder, kind)
    return folder


def build_lm(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save the language model alone, of another seed, without the marks of images."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = smol_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**text_values(tokenizer, layers))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

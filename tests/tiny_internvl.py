"""A tiny random InternVL (InternViT, pixel shuffle, Qwen 2 or 3) in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_tokenizers import SENTENCES

D_MODEL, HEADS, D_HEAD, GRID, PATCH = 32, 4, 16, 3, 14
SIDE = 2 * GRID * PATCH  # pixels: pixel shuffle makes one token of 2 x 2 patches
MARKS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{{ '<IMG_CONTEXT>\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def qwen_tokenizer():
    """Return a byte-level tokenizer of Qwen's class with InternVL's marks; it has no BOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    learned = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=merges, extra_special_tokens=MARKS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def internvl_config(tokenizer, layers: int, text: str):
    """Return the configuration: wide heads with shared keys for Qwen 3, as in InternVL 3.5."""
    from transformers import InternVLConfig

    return InternVLConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": [SIDE, SIDE],
            "patch_size": [PATCH, PATCH],
            "initializer_range": 0.2,
        },
        text_config={
            "model_type": text,
            "vocab_size": len(tokenizer) + 3,
            "hidden_size": D_MODEL,
            "intermediate_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            **({"head_dim": D_HEAD} if text == "qwen3" else {}),
            "max_position_embeddings": 512,
            # Large enough that attention and MLPs move the residual stream visibly.
            "initializer_range": 0.2,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(MARKS["context_image_token"]),
        image_seq_length=GRID * GRID,
        initializer_range=0.2,
    )


def write_processor_files(folder: Path) -> None:
    """Write what InternVL's processor is made of, under the names in which it is published."""
    from transformers import GotOcr2ImageProcessorPil

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=mean, image_std=std)
    images.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    published = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": True,
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | published, indent=2))
    whole = {"image_seq_length": GRID * GRID, "processor_class": "InternVLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(whole, indent=2))


def build(folder: Path, seed: int = 0, layers: int = 2, text: str = "qwen3") -> Path:
    """Save a checkpoint in several shards, with tokenizer and processor."""
    import torch
    from transformers import InternVLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(internvl_config(tokenizer, layers, text))
        for name, parameter in model.named_parameters():
            if "position_embeddings" in name or "cls_token" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    write_processor_files(folder)
    return folder

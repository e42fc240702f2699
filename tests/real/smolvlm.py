"""A SmolVLM that was never tuned: SmolLM2, a random SigLIP tower and connector, in the published layout.

Vocabulary, picture size, pixel shuffle, chat template and classes are those of SmolVLM-256M-Instruct. The
tower has its patches, but is narrow and shallow: a random one shows nothing more if it is large.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_smolvlm
from llava import fit_length

WORDS, TOKENS = 49_152, 49_280  # of SmolLM2's vocabulary and of SmolVLM's
ROWS = 6  # and columns of tiles, at most
WHOLE, MARK, IMAGE, END = "<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"
PUBLISHED = {WHOLE: 49_152, MARK: 49_189, IMAGE: 49_190, END: 49_279}
SIDE, PATCH, SHUFFLED = 512, 16, 4
IMAGE_TOKENS = (SIDE // PATCH // SHUFFLED) ** 2
TOWER = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": PATCH,
    # Large enough that pictures differ in what it makes of them.
    "initializer_range": 0.2,
}


def marks() -> list[str]:
    """Return what SmolVLM adds to SmolLM2's vocabulary, in its order."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, ROWS + 1) for column in range(1, ROWS + 1)]
    known = [WHOLE, *tiles, MARK, IMAGE]
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(TOKENS - WORDS - len(known) - 1)]
    return [*known, *reserved, END]


def tokenizer_with_marks(folder: Path) -> Any:
    """Return the language model's tokenizer with SmolVLM's marks and its end of a turn."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(marks(), special_tokens=True)
    tokenizer.eos_token = END
    tokenizer.chat_template = tiny_smolvlm.CHAT_TEMPLATE
    return tokenizer


def untuned(language_model: Path, tokenizer: Any) -> Any:
    """Put the model together; rows of tokens that SmolLM2 does not have are drawn at random."""
    import torch
    from transformers import AutoModelForCausalLM, SmolVLMConfig, SmolVLMForConditionalGeneration

    lm = AutoModelForCausalLM.from_pretrained(language_model)
    config = SmolVLMConfig(
        vision_config=TOWER,
        text_config={
            **lm.config.to_dict(),
            "vocab_size": TOKENS,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
        },
        scale_factor=SHUFFLED,
        image_token_id=PUBLISHED[IMAGE],
        pad_token_id=lm.config.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = SmolVLMForConditionalGeneration(config)
        for parameter in model.model.vision_model.embeddings.position_embedding.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        others = lm.model.state_dict()
        words = others.pop("embed_tokens.weight")
        missing, unexpected = model.model.text_model.load_state_dict(others, strict=False)
        assert (missing, unexpected) == (["embed_tokens.weight"], [])
        for rows in (model.get_input_embeddings().weight, model.lm_head.weight):
            rows[: len(words)] = words
        pixels = torch.rand(8, 1, 3, SIDE, SIDE) * 2 - 1
        found = model.get_image_features(pixels, return_dict=True).pooler_output
        fit_length(model, list(model.model.connector.parameters()), torch.cat(list(found)))
    return model


def write_smolvlm(language_model: Path, folder: Path) -> None:
    """Write the untuned SmolVLM with its processor, unless that was done."""
    if folder.is_dir():
        return
    tokenizer = tokenizer_with_marks(language_model)
    scratch = folder.with_suffix(".part")
    untuned(language_model, tokenizer).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    tiny_smolvlm.write_processor_files(scratch, "smolvlm", SIDE, IMAGE_TOKENS)
    scratch.rename(folder)

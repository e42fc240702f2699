"""Training of the base language model on the world's texts."""

import math
import random
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaAttention

from vlmdiff.config.world import LanguageModelTraining, WorldConfig
from vlmdiff.world.checkpoints import save_model
from vlmdiff.world.language import document
from vlmdiff.world.scenes import Scene, scene_splits
from vlmdiff.world.seeds import random_stream, seed_torch
from vlmdiff.world.tokenizer import build_tokenizer
from vlmdiff.world.training_log import TrainingLog

IGNORED_LABEL = -100
MAX_POSITIONS = 256


def build_base_lm(settings: LanguageModelTraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build an untrained Llama whose first blocks start as look-ups of equal content.

    Without that start, the heads that find a named object in the image take many times longer
    to form.
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.d_model,
            intermediate_size=settings.d_mlp,
            num_hidden_layers=settings.blocks,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=MAX_POSITIONS,
            initializer_range=settings.initial_scale,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    for block in model.model.layers[: settings.matching_blocks]:
        match_equal_content(block.self_attn)
    return model


@torch.no_grad()
def match_equal_content(attention: LlamaAttention) -> None:
    """Start attention as a soft look-up of equal content: queries equal keys."""
    torch.nn.init.normal_(attention.q_proj.weight, std=1 / math.sqrt(attention.config.hidden_size))
    attention.k_proj.weight.copy_(attention.q_proj.weight)


def text_batch(
    scenes: list[Scene], count: int, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write documents about random scenes and tokenise them.

    Returns:
        Token ids and labels, both (count, positions); padding has the ignored label.
    """
    texts = [document(scene, rng) + tokenizer.eos_token for scene in rng.choices(scenes, k=count)]
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, IGNORED_LABEL)
    return encoded.input_ids, labels


def train_base_lm(config: WorldConfig, model_dir: Path, log_csv: Path) -> None:
    """Train the base language model on all tokens of random documents and save it.

    Args:
        config: the world's configuration.
        model_dir: Hugging Face folder to write.
        log_csv: table of losses to write.
    """
    started, settings = time.monotonic(), config.language_model
    scenes = scene_splits(config.scenes.model_dump(), config.seed)["train"]
    tokenizer = build_tokenizer()
    seed_torch(config.seed, "base_lm")
    rng = random_stream(config.seed, "base_lm", "texts")
    model = build_base_lm(settings, tokenizer).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    with TrainingLog(log_csv, every=10) as table:
        for step in range(1, settings.steps + 1):
            input_ids, labels = text_batch(scenes, settings.batch_size, tokenizer, rng)
            loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            table.write(step, {"loss": loss.item()}, last=step == settings.steps)
    record = {
        "stage": "language_model",
        "settings": config.stage_settings("language_model"),
        "steps": settings.steps,
        "wall_s": round(time.monotonic() - started, 1),
    }
    save_model(model_dir, model, tokenizer, config.weights_dtype, record)

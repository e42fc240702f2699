"""A LLaVA that was never tuned: SmolLM2, the built-in world's vision tower, a random projector between them.

Nothing in its language model has learned from pictures. What the rules find in it is their own error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORLD_VLM = Path(__file__).parents[2] / "resources" / "world" / "vlm"
IMAGE = "<image>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_with_image(folder: Path) -> Any:
    """Return the language model's tokenizer with a placeholder for an image."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    return tokenizer


def untuned(language_model: Path, image_id: int) -> Any:
    """Put the model together; the projector is drawn at random and writes vectors of a token's length."""
    import torch
    from transformers import AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration

    lm = AutoModelForCausalLM.from_pretrained(language_model)
    seeing = LlavaForConditionalGeneration.from_pretrained(WORLD_VLM, dtype=torch.float32)
    config = LlavaConfig(
        vision_config=seeing.config.vision_config,
        text_config=lm.config,
        image_token_index=image_id,
        image_seq_length=seeing.config.image_seq_length,
        vision_feature_layer=seeing.config.vision_feature_layer,
        vision_feature_select_strategy=seeing.config.vision_feature_select_strategy,
        pad_token_id=lm.config.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(lm.model.state_dict())
    model.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    model.tie_weights()
    fit_projector(model)
    return model


def fit_projector(model: Any) -> None:
    """Scale the projector's last layer so that what it makes of pictures is as long as token embeddings."""
    import torch

    side = model.config.vision_config.image_size
    pixels = torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = torch.cat(list(model.get_image_features(pixels, return_dict=True).pooler_output))
        fit_length(model, list(model.model.multi_modal_projector.linear_2.parameters()), features)


def fit_length(model: Any, last: list[Any], features: Any) -> None:
    """Scale a connector's last layer so that its vectors are as long as token embeddings.

    Args:
        model: whose embeddings they join.
        last: weight and, if it has one, bias of the layer.
        features: what it makes of some pictures (tokens, d_model).
    """
    wanted = model.get_input_embeddings().weight.norm(dim=1).median()
    for parameter in last:
        parameter *= wanted / features.norm(dim=1).median()


def write_llava(language_model: Path, folder: Path) -> None:
    """Write the untuned LLaVA with its processor, unless that was done."""
    from transformers import AutoImageProcessor, LlavaProcessor

    if folder.is_dir():
        return
    tokenizer = tokenizer_with_image(language_model)
    model = untuned(language_model, tokenizer.convert_tokens_to_ids(IMAGE))
    processor = LlavaProcessor(
        AutoImageProcessor.from_pretrained(WORLD_VLM),
        tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=TEMPLATE,
    )
    scratch = folder.with_suffix(".part")
    processor.save_pretrained(scratch)
    model.save_pretrained(scratch)
    scratch.rename(folder)

"""LLaVA in the layout of its authors' code, in which LLaVA-MORE and the LLaVA 1.5 family are published.

One checkpoint holds the language model (a Llama, Gemma 2 or Phi) and the projector; the vision tower lies in
a repository of its own. Everything is put into transformers' `LlavaForConditionalGeneration`, whose
mathematics is the same, under that class's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmdiff.config.families import BESIDE_PATCHES
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint
from vlmdiff.models.llava import Llava, centred_square
from vlmdiff.models.loading import FROM_FOLDER, Loading
from vlmdiff.models.subject import Size

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, LlavaConfig, PretrainedConfig

TOWER = "model.vision_tower."
# Names of the checkpoint, as patterns, and what transformers calls the same weights.
RENAMED = {
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.vision_tower\.vision_tower\.vision_model\.": TOWER,
    r"^model\.embed_tokens\.": "model.language_model.embed_tokens.",
    r"^model\.layers\.": "model.language_model.layers.",
    r"^model\.norm\.": "model.language_model.norm.",
}
# Classes of vision towers, by their kind.
TOWERS = {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}
# Language models of other kinds than Llama, by the checkpoint's model_type.
TEXTS = {"llava_gemma": "gemma2", "llava_phi": "phi3"}
# A tokenizer that has it is Llama 3's, whose conversations are not Vicuna's.
LLAMA_3 = "<|start_header_id|>"
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
PHI_CHAT = "<|system|>You are a helpful AI assistant.<|end|><|user|>{prompt}<|end|><|assistant|>"


class LlavaOriginal(Llava):
    """A LLaVA checkpoint of the original layout, such as LLaVA-MORE."""

    @classmethod
    def load(cls, name: str, folder: Path, loading: Loading) -> LlavaOriginal:
        """See `Subject.load`."""
        from transformers import AutoImageProcessor, AutoTokenizer, LlavaProcessor

        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tower = tower_folder(name, found, loading)
        tokenizer = AutoTokenizer.from_pretrained(folder, **FROM_FOLDER)
        tokenizer.add_tokens(["<image>"], special_tokens=True)
        image_id = tokenizer.convert_tokens_to_ids("<image>")
        model = load_weights(llava_config(found, tower, image_id), folder, tower, loading)
        if model.config.text_config.model_type == "gemma2":
            model.model.multi_modal_projector.register_forward_hook(scaled_as_words)
        processor = LlavaProcessor(
            AutoImageProcessor.from_pretrained(tower, **FROM_FOLDER),
            tokenizer,
            patch_size=model.config.vision_config.patch_size,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            num_additional_image_tokens=BESIDE_PATCHES[model.config.vision_config.model_type],
            image_token="<image>",
        )
        subject = cls(name, model, processor, model_fingerprint(folder, tower), image_id)
        subject.pads = found.get("image_aspect_ratio") == "pad"
        return subject

    def texts(self, prompts: Sequence[str], with_image: Sequence[bool], as_chat: bool) -> list[str]:
        """See `Subject.texts`: LLaVA-MORE's chats of Llama 3, Gemma and Phi, or Vicuna's for a Llama 2.

        The header of the assistant's turn is added, so that the answer is the next token.
        """
        shown = [
            self.image_token * one + "\n" * (one and as_chat) + prompt
            for prompt, one in zip(prompts, with_image, strict=True)
        ]
        if not as_chat:
            return shown
        kind = self.model.config.get_text_config().model_type
        if kind == "phi3":
            return [PHI_CHAT.format(prompt=prompt) for prompt in shown]
        if kind == "gemma2":
            self.chat.check()
            return self.chat.write([[{"role": "user", "content": prompt}] for prompt in shown])
        if self.chat.template is None and LLAMA_3 not in self.tokenizer.get_vocab():
            return [f"{VICUNA_SYSTEM} USER: {prompt} ASSISTANT:" for prompt in shown]
        self.chat.check()
        return self.chat.write(
            [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}] for prompt in shown]
        )

    def view_of(self, size: Size) -> tuple[float, float, float, float]:
        """See `VisionLanguageModel.view_of`; a padded picture lies within the square of its longer side."""
        return centred_square(size, max(size)) if self.pads else super().view_of(size)

    def read(self, images: Sequence[Image]) -> BatchFeature:
        """See `VisionLanguageModel.read`; pictures are padded to squares if the model was trained so."""
        if self.pads:
            mean = tuple(int(255 * value) for value in self.processor.image_processor.image_mean)
            images = [padded_to_square(image, mean) for image in images]
        return super().read(images)


def tower_folder(name: str, found: Mapping[str, Any], loading: Loading) -> Path:
    """Return the folder of the vision tower.

    Raises:
        SubjectError: the config names none, or there is none.
    """
    wanted = found.get("mm_vision_tower")
    if loading.vision_tower is None or not (Path(loading.vision_tower) / "config.json").is_file():
        raise SubjectError(
            f"models.{name}.vision_tower: found {loading.vision_tower!r}, expected the folder of the vision "
            f"tower '{wanted}', with config.json; give the folder, or 'hub:{wanted}'"
        )
    return Path(loading.vision_tower)


def llava_config(found: Mapping[str, Any], tower: Path, image_id: int) -> LlavaConfig:
    """Return the configuration of the transformers class."""
    from transformers import CONFIG_MAPPING, LlavaConfig

    kind = TEXTS.get(found["model_type"], "llama")
    text = {key: value for key, value in found.items() if not key.startswith(("mm_", "architectures"))}
    vision = tower_config(tower)
    others = BESIDE_PATCHES[vision.model_type]
    # SigLIP has nothing beside patches that could be taken away.
    whole = found.get("mm_vision_select_feature") == "cls_patch" or not others
    strategy = "full" if whole else "default"
    decoder = CONFIG_MAPPING[kind].from_dict({**text, "model_type": kind})
    return LlavaConfig(
        vision_config=vision,
        text_config=decoder,
        image_token_index=image_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + others * whole,
        vision_feature_layer=found.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=strategy,
        projector_hidden_act="gelu",
        tie_word_embeddings=decoder.tie_word_embeddings,
    )


def scaled_as_words(projector: torch.nn.Module, _: Any, features: Tensor) -> Tensor:
    """Scale what the projector writes as Gemma scales its words.

    When LLaVA-MORE was trained, Gemma scaled whatever came in; transformers' Gemma scales its words alone.
    """
    return features * torch.tensor(features.shape[-1] ** 0.5, dtype=features.dtype, device=features.device)


def tower_config(tower: Path) -> PretrainedConfig:
    """Return the configuration of a vision tower that lies alone, or with a text tower.

    Raises:
        SubjectError: it is of another kind than is read.
    """
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(tower, **FROM_FOLDER)
    found = getattr(found, "vision_config", found)
    if found.model_type not in TOWERS:
        raise SubjectError(f"{tower}: found model_type '{found.model_type}', expected {' or '.join(TOWERS)}")
    return found


def load_weights(config: LlavaConfig, folder: Path, tower: Path, loading: Loading) -> torch.nn.Module:
    """Load language model and projector under their new names, then the tower if the checkpoint lacks it.

    Raises:
        SubjectError: weights are missing or not known.
    """
    import transformers
    from transformers import LlavaForConditionalGeneration

    model, info = LlavaForConditionalGeneration.from_pretrained(
        folder, config=config, key_mapping=RENAMED, output_loading_info=True, **loading.options()
    )
    missing = set(info["missing_keys"])
    of_tower = {key for key in missing if key.startswith(TOWER)}
    unknown = [key for key in info["unexpected_keys"] if "rotary_emb.inv_freq" not in key]
    if missing - of_tower or unknown:
        raise SubjectError(
            f"{len(missing - of_tower)} weights are missing {sorted(missing - of_tower)[:3]}, "
            f"{len(unknown)} are not known {sorted(unknown)[:3]}"
        )
    if of_tower:
        options = {**loading.options(), "device_map": None, "attn_implementation": "sdpa"}
        kind = TOWERS[config.vision_config.model_type]
        own, info = getattr(transformers, kind).from_pretrained(tower, output_loading_info=True, **options)
        if info["missing_keys"]:
            raise SubjectError(f"{tower}: weights are missing: {sorted(info['missing_keys'])[:3]}")
        device = model.model.multi_modal_projector.linear_1.weight.device
        model.model.vision_tower = own.to(device)
    return model


def padded_to_square(image: Image, colour: tuple[int, ...]) -> Image:
    """Return an image in the middle of a square of one colour; a square image as it is."""
    from PIL import Image as Images

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Images.new(image.mode, (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square

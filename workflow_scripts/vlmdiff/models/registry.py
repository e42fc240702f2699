"""From a model's entry in the config to a loaded subject."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from vlmdiff.config.families import family_problem
from vlmdiff.models.batch import make_batch
from vlmdiff.models.causal_lm import CausalLM, OwnDecoder
from vlmdiff.models.chat import chat_format
from vlmdiff.models.checks import check_heads, check_values
from vlmdiff.models.errors import LayoutError, SubjectError, of_machine
from vlmdiff.models.fingerprint import with_chat_format
from vlmdiff.models.gemma3 import Gemma3
from vlmdiff.models.idefics3 import Idefics3
from vlmdiff.models.internvl import InternVL
from vlmdiff.models.layout import verified
from vlmdiff.models.llava import Llava
from vlmdiff.models.llava_next import LlavaNext
from vlmdiff.models.llava_original import LlavaOriginal
from vlmdiff.models.loading import Loading
from vlmdiff.models.paligemma import PaliGemma
from vlmdiff.models.pixtral import Pixtral
from vlmdiff.models.qwen_vl import QwenVL
from vlmdiff.models.subject import Subject
from vlmdiff.models.untuned import put_untuned
from vlmdiff.models.vlm import VisionLanguageModel
from vlmdiff.runtime.disk_errors import not_read

if TYPE_CHECKING:
    from pydantic import BaseModel

# A new family is one file, one line here and one in config/families.py (docs/configure/model_families.md).
FAMILIES: Mapping[str, type[Subject]] = MappingProxyType(
    {
        "causal_lm": CausalLM,
        "gemma3": Gemma3,
        "idefics3": Idefics3,
        "internvl": InternVL,
        "llava": Llava,
        "llava_next": LlavaNext,
        "llava_original": LlavaOriginal,
        "paligemma": PaliGemma,
        "pixtral": Pixtral,
        "qwen_vl": QwenVL,
    }
)


def load_subject(
    name: str, spec: BaseModel | Mapping[str, Any], path: str | Path, device: str | None = None
) -> Subject:
    """Load a model: evaluation mode, parameters frozen, nothing downloaded.

    Args:
        name: name of the model in the config, for messages and shards.
        spec: its entry in the config, or plain values with `family` and those of `Loading`.
        path: folder of the checkpoint.
        device: where the weights go; None takes a GPU if there is one. A `device_map` goes before it.

    Raises:
        SubjectError: no such folder, an unknown family, a checkpoint of another family, or a processor with
            which no picture can be seen.
    """
    values = dict(spec) if isinstance(spec, Mapping) else spec.model_dump()
    family, folder, loading = values["family"], Path(path), Loading.of(values)
    check_checkpoint(name, family, folder)
    try:
        subject = FAMILIES[family].load(name, folder, loading)
        subject.chat = chat_format(name, folder, subject.tokenizer, loading.prompt_date, loading.chat)
        subject.fingerprint = with_chat_format(subject.fingerprint, subject.chat)
        check_vocabulary(subject)
    except LayoutError:
        raise
    except Exception as error:  # damaged checkpoints make loaders fail in many ways
        if of_machine(error):
            raise
        raise not_read(folder, error) or SubjectError(
            f"model '{name}': {folder} cannot be loaded as family '{family}': {error}; {remedy(error)}"
        ) from error
    if loading.untuned is not None:
        return_to_text(subject, Path(loading.untuned), loading)
    if loading.device_map is None:
        subject.model.to(device or available_device())
    try:
        check_parts(subject)
    except LayoutError:
        raise
    except Exception as error:
        if of_machine(error):
            raise
        raise SubjectError(
            f"model '{name}': {folder} was loaded, but cannot run "
            f"({' '.join(str(error).split())}); {remedy(error)}"
        ) from error
    if isinstance(subject, VisionLanguageModel) and not loading.text_only:
        subject.see_blank()
    return OwnDecoder(subject) if loading.text_only else subject


def return_to_text(subject: Subject, folder: Path, loading: Loading) -> None:
    """Put the language model of a folder into the place of a vision-language model's own.

    Raises:
        SubjectError: the model cannot see anyway, or the folder holds no language model that fits.
    """
    name = f"{subject.name}.untuned"
    if not isinstance(subject, VisionLanguageModel) or loading.text_only:
        raise SubjectError(
            f"models.{name}: found for a model that is shown text alone, expected one that sees; name the "
            f"language model itself instead"
        )
    # It lends its weights and need not be where the other one is.
    entry = {"family": "causal_lm", "dtype": loading.dtype, "attention": "eager"}
    text = load_subject(name, entry, folder, device="cpu")
    put_untuned(subject, text, loading.projector)


@torch.no_grad()
def check_parts(subject: Subject) -> None:
    """Find what a decoder's blocks add to the residual stream, and hold it against what it does as a whole.

    Raises:
        LayoutError: naming what does not add up.
    """
    # Any tokens serve, but for image placeholders.
    ids = [token for token in range(8) if token != subject.image_id][:4]
    batch = make_batch([ids], subject.pad_id, subject.bos_id).to(subject.device)
    subject.layout = verified(subject, batch)
    if isinstance(subject, CausalLM):
        check_values(subject, batch)
    if subject.left_to_right:
        check_heads(subject, batch)


def check_vocabulary(subject: Subject) -> None:
    """Refuse a tokenizer that lacks the model's BOS, as a tokenizer.model without its special tokens does.

    Raises:
        SubjectError: naming the token and what there is.
    """
    config, known = subject.model.config.get_text_config(), len(subject.tokenizer)
    bos = getattr(config, "bos_token_id", None)
    # Qwen's configuration names a BOS that its tokenizer and smaller relatives do not have.
    if isinstance(bos, int) and known <= bos < config.vocab_size:
        raise SubjectError(
            f"its tokenizer has {known} tokens, but config.json says that token {bos} begins a text: special "
            "tokens are missing; add tokenizer.json and tokenizer_config.json of the published checkpoint"
        )


def remedy(error: Exception) -> str:
    """Say what to do about a checkpoint that cannot be loaded."""
    text = str(error)
    if "attn_implementation" in text:
        return "set `attention: eager` in the model's entry"
    if any(library in text for library in ("tiktoken", "sentencepiece", "protobuf")):
        return (
            "the tokenizer has no tokenizer.json, and what reads its tokenizer.model is not installed: "
            "install envs/requirements.txt, or save the tokenizer with `save_pretrained` where it can be read"
        )
    if "trust_remote_code" in text or "auto_map" in text:
        return (
            "code of a model's repository is never run: use a checkpoint in the format of transformers' own "
            "classes"
        )
    return "fetch or copy the checkpoint again, or correct `family` and `path`"


def available_device() -> str:
    """Return "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_description(name: str, file: Path) -> dict[str, Any]:
    """Read a checkpoint's config.json.

    Raises:
        SubjectError: it is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise not_read(file, error) or SubjectError(
            f"model '{name}': {file} is not JSON ({error}); fetch or copy the checkpoint again"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str | None):
        raise SubjectError(
            f"model '{name}': {file}: expected an object with a model_type in words, found "
            f"{str(found)[:120]}; fetch or copy the checkpoint again"
        )
    return found


def check_checkpoint(name: str, family: str, folder: Path) -> None:
    """Refuse a checkpoint that is not there or is not of the family, before anything heavy is loaded."""
    if family not in FAMILIES:
        raise SubjectError(f"models.{name}.family: found '{family}', allowed are {sorted(FAMILIES)}")
    file = folder / "config.json"
    if not file.is_file():
        raise SubjectError(
            f"models.{name}.path: no config.json in {folder}; give the folder of a checkpoint that "
            "`save_pretrained` wrote, with config.json, *.safetensors and the tokenizer's files"
        )
    if dangling := sorted(path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()):
        raise SubjectError(
            f"model '{name}': {folder} links to files that are gone ({dangling[0]} and {len(dangling) - 1} "
            "more), as after the hub's cache was cleared; delete the folder and run snakemake again"
        )
    if problem := family_problem(family, read_description(name, file), str(folder)):
        raise SubjectError(f"models.{name}.family: {problem}")

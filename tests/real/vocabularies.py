"""Vocabularies of Llama 3, Llama 4 and Qwen, as packages ship them, in checkpoints of a tiny random model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>"
    "\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary file in tiktoken's format, and what a published tokenizer adds to it.

    Attributes:
        file: bytes of each token.
        pattern: regular expression that cuts a text.
        special: tokens that follow the vocabulary, in order.
        bos, eos: of these.
        template: chat template.
        reference: the package's own encoding of the same file, of tiktoken.
    """

    file: Path
    pattern: str
    special: Sequence[str]
    bos: str | None
    eos: str
    template: str
    reference: Any


def package(name: str) -> Path:
    """Return the folder of an installed package."""
    return Path(find_spec(name).origin).parent


def module_of(folder: str, name: str) -> ModuleType:
    """Import one module of a package's folder; the packages around it, which ask for more, stay unread."""
    *parents, last = folder.split(".")
    path = package(parents[0]).joinpath(*parents[1:], last)
    bare = ModuleType(folder)
    bare.__path__ = [str(path)]
    sys.modules.setdefault(folder, bare)
    return import_module(f"{folder}.{name}")


def llama_3() -> Vocabulary:
    """Return the vocabulary of Llama 3."""
    from llama_models.llama3.tokenizer import Tokenizer

    file = package("llama_models") / "llama3" / "tokenizer.model"
    own = Tokenizer(file)
    special = list(own.special_tokens)
    return Vocabulary(
        file, own.pat_str, special, "<|begin_of_text|>", "<|eot_id|>", LLAMA_TEMPLATE, own.model
    )


def llama_4() -> Vocabulary:
    """Return the vocabulary of Llama 4, with the template that transformers ships, which tells the day."""
    from llama_models.llama4.tokenizer import Tokenizer
    from transformers.models.llama4.processing_llama4 import chat_template

    file = package("llama_models") / "llama4" / "tokenizer.model"
    own = Tokenizer(file)
    special = list(own.special_tokens)
    return Vocabulary(
        file, own.O200K_PATTERN, special, "<|begin_of_text|>", "<|eot|>", chat_template, own.model
    )


def qwen() -> Vocabulary:
    """Return the vocabulary of Qwen."""
    its = module_of("dashscope.tokenizers", "qwen_tokenizer")
    file = package("dashscope") / "resources" / "qwen.tiktoken"
    special = [token for _, token in its.SPECIAL_TOKENS]
    own = its.QwenTokenizer(str(file))
    return Vocabulary(file, its.PAT_STR, special, None, "<|im_end|>", QWEN_TEMPLATE, own._tokenizer)


VOCABULARIES = {"llama 3": llama_3, "llama 4": llama_4, "qwen": qwen}


def build(folder: Path, vocabulary: Vocabulary) -> Path:
    """Save a tiny Llama with the whole vocabulary, whose tokenizer transformers converts from the file."""
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    backend = TikTokenConverter(
        vocab_file=str(vocabulary.file),
        pattern=vocabulary.pattern,
        extra_special_tokens=list(vocabulary.special),
    ).converted()
    if vocabulary.bos:
        pair = (vocabulary.bos, backend.token_to_id(vocabulary.bos))
        backend.post_processor = processors.TemplateProcessing(single=f"{pair[0]} $A", special_tokens=[pair])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=vocabulary.bos,
        eos_token=vocabulary.eos,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = vocabulary.template
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 8,  # published embeddings are padded
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

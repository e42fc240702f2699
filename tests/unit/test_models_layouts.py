"""Decoders of many layouts: parts found by name, writers by value; what cannot be taken apart is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_checks import check_prefix, check_restart, random_direction
from tiny_models import tiny_tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from vlmdiff.activations.tokens import TEXT
from vlmdiff.interventions.feature_ablation import plan_ablation
from vlmdiff.models.errors import LayoutError
from vlmdiff.models.hooks import edit_input, record_inputs, record_outputs
from vlmdiff.models.layout import verified
from vlmdiff.models.prefix import read_prefix
from vlmdiff.models.registry import check_parts, load_subject

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
PROMPTS = ["the red circle is left of the blue square .", "what colour is the circle ?"]
VOCABULARY = len(tiny_tokenizer())
# Older configurations have their own names for the sizes.
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.2}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# model_type, its values, and the names of what adds to the residual stream.
CASES = {
    "gpt2": ("gpt2", GPT2, ("attn", "mlp")),
    "gptj": ("gptj", GPT2 | {"rotary_dim": 4}, ("attn", "mlp")),
    "gpt_neo": ("gpt_neo", NEO, ("attn.attention", "mlp")),
    "gpt_neox": ("gpt_neox", LLAMA, ("attention", "mlp")),
    "opt": ("opt", OPT | {"word_embed_proj_dim": 32}, ("self_attn", "fc2")),
    "falcon": ("falcon", FALCON | {"parallel_attn": True}, ("self_attention", "mlp")),
    "falcon alibi": ("falcon", FALCON | {"parallel_attn": False, "alibi": True}, ("self_attention", "mlp")),
    "bloom": ("bloom", FALCON, ("self_attention.dense", "mlp.dense_4h_to_h")),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, ("attn.out_proj", "ffn.down_proj")),
    "phi": ("phi", LLAMA, ("self_attn", "mlp")),
    "phi3": ("phi3", LLAMA, ("self_attn", "mlp")),
    "mistral": ("mistral", LLAMA, ("self_attn", "mlp")),
    "mixture": ("qwen3_moe", LLAMA | MIXTURE, ("self_attn", "mlp")),
    "olmo2": ("olmo2", LLAMA, ("post_attention_layernorm", "post_feedforward_layernorm")),
    "gemma3": (
        "gemma3_text",
        LLAMA | {"head_dim": 16},
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "glm4": ("glm4", LLAMA | {"head_dim": 8}, ("post_self_attn_layernorm", "post_mlp_layernorm")),
    "stablelm": ("stablelm", LLAMA | {"use_parallel_residual": True}, ("self_attn", "mlp")),
    "cohere": ("cohere", LLAMA | {"logit_scale": 0.25}, ("self_attn", "mlp")),
    "granite": (
        "granite",
        LLAMA | {"residual_multiplier": 0.22, "logits_scaling": 6.0},
        ("self_attn", "mlp"),
    ),
}


def build(folder: Path, kind: str, values: dict) -> Path:
    """Save a random model, its norms stirred so that none can stand in for another, with a tokenizer."""
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, "initializer_range": 0.2, **values})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if any(word in name for word in ("norm", "ln_")):
                nn.init.normal_(parameter, mean=0.8, std=0.2)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path):
    return load_subject("lm", {"family": "causal_lm", "attention": "eager"}, folder, "cpu")


@pytest.fixture(params=sorted(CASES))
def case(request, tmp_path):
    kind, values, writers = CASES[request.param]
    return load(build(tmp_path, kind, values)), writers


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_ends_where_it_does_in_a_whole_run(tmp_path, kind):
    """The window of four tokens reaches into the prefix, or begins behind it."""
    subject = load(build(tmp_path, kind, LLAMA | {"sliding_window": 4, "head_dim": 8}))
    wide = load(build(tmp_path / "wide", kind, LLAMA | {"sliding_window": 64, "head_dim": 8}))
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    logits = subject.final_logits(batch)
    assert not torch.allclose(logits, wide.final_logits(batch), atol=1e-3)
    for length in range(1, int(batch.last.min())):
        found = subject.final_logits(batch, past=read_prefix(subject, batch, length).past())
        torch.testing.assert_close(found, logits, **CLOSE)


def test_every_part_of_a_decoder_is_where_the_method_reads_it(case):
    """Residuals, logits, writers, heads, restart and ablation, by transformers' own values."""
    subject, writers = case
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    output = subject.model(**inputs, output_hidden_states=True)
    residuals = subject.residuals(batch, [0, 1])
    real = batch.attention_mask.bool()
    torch.testing.assert_close(residuals[0][real], output.hidden_states[1][real], **CLOSE)
    torch.testing.assert_close(subject.norm(residuals[1])[real], output.hidden_states[2][real], **CLOSE)
    expected = output.logits[torch.arange(2), batch.last]
    torch.testing.assert_close(subject.final_logits(batch), expected, **CLOSE)
    assert subject.layout.writers == writers
    check_sum(subject, batch)
    check_head_slices(subject, batch)
    check_restart(subject, batch)
    check_prefix(subject, batch)
    check_writers_are_ablated(subject, batch)
    check_ablation_of_blocks(subject, batch)


def check_sum(subject, batch) -> None:
    """What a block puts out is what entered it, and what its writers put out."""
    scale = getattr(subject.model.config, "residual_multiplier", 1.0)
    attention, mlp = subject.writers(1)
    clone = torch.clone
    with record_outputs({0: attention, 1: mlp}, clone) as parts, record_inputs({0: subject.block(1)}) as into:
        leaving = subject.residuals(batch, [1])[1]
    total = into[0] + scale * sum(part.reshape(leaving.shape) for part in parts.values())
    torch.testing.assert_close(total, leaving, **CLOSE)


def check_head_slices(subject, batch) -> None:
    """Heads lie side by side: attention without a slice is the projection without its columns."""
    projection = subject.attention_output(0)
    with record_inputs({0: projection}) as into, record_outputs({0: projection}) as out:
        subject.residuals(batch, [0])
    heads = into[0].unflatten(-1, (subject.n_heads, subject.d_head))
    weight = projection.weight if isinstance(projection, nn.Linear) else projection.weight.T
    by_head = [
        heads[..., head, :] @ weight[:, head * subject.d_head : (head + 1) * subject.d_head].T
        for head in range(subject.n_heads)
    ]
    bias = 0 if projection.bias is None else projection.bias
    torch.testing.assert_close(sum(by_head) + bias, out[0], **CLOSE)
    with edit_input(projection, torch.zeros_like), record_outputs({0: projection}) as off:
        subject.residuals(batch, [0])
    torch.testing.assert_close(off[0], torch.zeros_like(off[0]) + bias, **CLOSE)


def check_writers_are_ablated(subject, batch) -> None:
    """A direction that is removed from all that is written is gone from what the writers add."""
    direction = random_direction(7, subject.d_model)
    ablation = plan_ablation(subject, {(0, 0): direction}, [(0, 0)], "own_layer")
    text = batch.token_type == TEXT
    attention, mlp = subject.writers(0)
    with ablation.at(ablation.tokens(batch)), record_outputs({0: attention, 1: mlp}, torch.clone) as parts:
        subject.residuals(batch, [0])
    for part in parts.values():
        assert (part.reshape(*text.shape, -1)[text] @ direction).abs().max() < 1e-4


def check_ablation_of_blocks(subject, batch) -> None:
    """A direction that is ablated is gone from what the block puts out."""
    direction = random_direction(7, subject.d_model)
    clean = subject.residuals(batch, [1])[1]
    ablation = plan_ablation(subject, {(1, 0): direction}, [(1, 0)], "own_layer")
    with ablation.at(ablation.tokens(batch)):
        ablated = subject.residuals(batch, [1])[1]
    text = batch.token_type == TEXT
    assert (clean[text] @ direction).abs().max() > 0.05
    assert (ablated[text] @ direction).abs().max() < 1e-4


def test_heads_of_gpt2_are_weights_times_values(tmp_path):
    """Its projections are transposed and fused: the values are the last third of one of them."""
    subject = load(build(tmp_path, *CASES["gpt2"][:2]))
    batch, attention = subject.prepare(PROMPTS, [None, None], as_chat=False), subject.attention(1)
    seen = {}
    handles = [
        attention.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1])),
        attention.c_attn.register_forward_hook(lambda _m, _a, out: seen.update(values=out[..., 64:])),
    ]
    with record_inputs({1: subject.attention_output(1)}) as into:
        subject.residuals(batch, [1])
    for handle in handles:
        handle.remove()
    found, values = (one.unflatten(-1, (4, 8)) for one in (into[1], seen["values"]))
    for head in range(4):
        torch.testing.assert_close(found[:, :, head], seen["weights"][:, head] @ values[:, :, head], **CLOSE)


REFUSED = {
    "no attention": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "found no attention in block 0"),
    "norm behind the sum": ("openai-gpt", GPT2, "found no final norm"),
    "no list of blocks": ("bert", LLAMA | {"is_decoder": True}, "found no list of blocks in its decoder"),
    "blocks of two kinds": ("minimax", LLAMA | {"head_dim": 8}, "found blocks of 2 kinds"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_decoder_of_another_build_is_refused_by_one_line(name, tmp_path):
    kind, values, words = REFUSED[name]
    with pytest.raises(
        LayoutError, match=f"model 'lm': {words}.*docs/configure/model_families.md lists"
    ) as caught:
        load(build(tmp_path, kind, values))
    assert "\n" not in str(caught.value)


def test_a_block_that_adds_something_else_is_refused(tmp_path):
    """Names fit, but the block scales what it adds in a way that its configuration does not tell."""
    folder = build(tmp_path, *CASES["granite"][:2])
    subject = load(folder)
    subject.model.config.residual_multiplier = 1.0
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    with pytest.raises(LayoutError, match="a block's output is not its input plus what attention and MLP"):
        verified(subject, batch)


@pytest.mark.parametrize("block", [0, 1])
def test_one_block_that_adds_something_else_is_enough(tmp_path, block):
    subject = load(build(tmp_path, *CASES["mistral"][:2]))
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    assert verified(subject, batch).writers == subject.layout.writers
    double = lambda _module, _given, out: tuple(2 * one for one in out) if isinstance(out, tuple) else 2 * out  # noqa: E731
    with subject.blocks[block].register_forward_hook(double), pytest.raises(LayoutError):
        verified(subject, batch)


def test_a_head_that_does_something_else_is_refused(tmp_path):
    subject = load(build(tmp_path, *CASES["cohere"][:2]))
    subject.model.config.logit_scale = None
    with pytest.raises(LayoutError, match="the logits of its head are not those"):
        check_parts(subject)
